"""What of an answer is the caption: a table of answers as models give them, and of captions that only look like them."""

import pytest

from unifashion.llm.answers import NoCaption, caption_of
from unifashion.llm.captioner import _caption

RED = "The dress is red and has short sleeves."

MENDED = {
    "thoughts": f"<think>\nMaybe it is orange. Let me check.\n</think>\n\n{RED}",
    "thinking": f"<thinking>It is red.</thinking>{RED}",
    "reasoning": f"<reasoning>red</reasoning>\n{RED}",
    "two thoughts": f"<think>a</think>\n<think>b</think>{RED}",
    "no thoughts": f"<think>\n\n</think>\n\n{RED}",
    "thoughts opened by the prompt": f"It is red, I believe.\n</think>\n{RED}",
    "an answer in tags": f"<think>a</think><answer>{RED}</answer>",
    "Mistral": f"[THINK]It is red.[/THINK]{RED}",
    "harmony": f"<|channel|>analysis<|message|>It is red.<|end|><|start|>assistant<|channel|>final<|message|>{RED}<|return|>",
    "harmony without marks": f"analysisWe need a caption. It is red.assistantfinal{RED}",
    "fence": f"```\n{RED}\n```",
    "fence of text": f"```text\n{RED}\n```",
    "fence with JSON": f'```json\n{{"caption": "{RED}"}}\n```',
    "fence after a sentence": f'Here is the JSON:\n```json\n{{"caption": "{RED}"}}\n```',
    "fence that was cut": f"```markdown\n{RED}",
    "JSON": f'{{"caption": "{RED}"}}',
    "JSON with more": f'{{"colour": "red", "Description": "{RED}"}}',
    "JSON in a list": f'[{{"text": "{RED}"}}]',
    "JSON that was cut": f'{{"caption": "{RED}',
    "greeting": f"Sure! {RED}",
    "greeting and label": f"Sure, here is the caption:\n\n{RED}",
    "label": f"Here's a concise catalogue caption for the dress: {RED}",
    "bold label": f"**Caption:** {RED}",
    "heading": f"## Caption:\n{RED}",
    "quotes": f'"{RED}"',
    "curly quotes": f"“{RED}”",
    "greeting, label and quotes": f'Certainly! Here is the description:\n\n"{RED}"',
    "bold": "The dress is **red** and has **short sleeves**.",
    "a bullet": f"- {RED}",
    "an offer": f"{RED}\n\nLet me know if you would like another one!",
    "white space": f"\n {RED}\n",
}


@pytest.mark.parametrize("case", MENDED)
def test_what_lies_around_a_caption_goes(case):
    assert caption_of(MENDED[case]) == RED


NONE = {
    "": "no text",
    " \n": "no text",
    "<think>\nOkay, I see a red dress. Wait, maybe it is": "thoughts alone; a higher --max-new-tokens",
    "<think>It is red.</think>": "thoughts alone",
    "<|channel|>analysis<|message|>It is red": "thoughts alone",
    "I'm sorry, but I can't help with identifying people in images.": "refused: I'm sorry, but",
    "I’m sorry, I can’t assist with that.": "refused",
    "Sorry, I cannot describe this image.": "refused",
    "I apologize, but I am unable to see it.": "refused",
    "I cannot provide a description of this person.": "refused",
    "I'm unable to view images.": "refused",
    "Unfortunately, I can't see the photo.": "refused",
    "As an AI language model, I cannot see images.": "refused",
    "As a large language model, I have no eyes.": "refused",
    "I don't see an image attached. Please upload one.": "refused",
    "It seems there is no image attached to your message.": "refused",
    "Please provide the image you would like me to describe.": "refused",
    '{"caption": "I\'m sorry, I can\'t help with that."}': "refused",
    "<think>A person!</think>I'm sorry, but I can't help with that.": "refused",
    "N/A": "refused",
    "...": "no words",
    "``` ```": "no words",
}


@pytest.mark.parametrize("answer", NONE)
def test_an_answer_without_a_caption_says_why(answer):
    with pytest.raises(NoCaption, match=NONE[answer]):
        caption_of(answer)


def test_a_language_model_that_is_loaded_here_is_read_by_the_same_rules(caplog):
    assert [_caption(text) for text in (MENDED["thoughts"], "I'm sorry, I can't help with that.")] == [RED, ""]
    assert "without a caption: the model refused: I'm sorry" in caplog.text


CAPTIONS = (
    RED,
    'The shirt is white with the words "sorry, not sorry" across the chest.',
    "The shirt is black and says I'm sorry, I can't hear you.",
    'The top is pink with "I <3 NY" on the front.',
    "The dress is red, with a <3 on the hem.",
    '"Love" is printed on the front and "peace" on the back of the shirt, in "bold"',
    "'70s style in the sleeves and '80s style in the collar of the '90s'",
    "The shirt reads 'think'.",
    "The shirt is grey with the slogan <think different> on it.",
    "The dress is for a sure thing: weddings.",
    "The shirt has a print of code: { a: 1 }.",
    "The top is made of lace. Here is where it ends: at the waist.",
    "A dress that cannot be missed, unfortunately without pockets.",
    "Okay-coloured dress",
    "Caption tee in black",
    "Surely a summer dress.",
    "The top has the word snake_case and a __ mark.",
    "- colour: red\n- sleeves: short",
    "Das Kleid ist rot und hat kurze Ärmel.",
    "这条裙子是红色的。",
    "Red",
)


@pytest.mark.parametrize("caption", CAPTIONS)
def test_a_caption_is_not_touched(caption):
    assert caption_of(caption) == caption
    assert caption_of(f"<think>Let me see.</think>{caption}") == caption
