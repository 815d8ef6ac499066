import pytest
from torch.utils.data import DataLoader, Dataset

from unifashion.errors import UserError, exit_with_one_sentence, nearest, require


class Broken(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise UserError("row 3 of a.json has no target; add it")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_user_error_is_one_sentence_and_exit_code_2_also_from_a_loader_process(workers, capsys):
    @exit_with_one_sentence
    def main(argv=None):
        list(DataLoader(Broken(), num_workers=workers))

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: row 3 of a.json has no target; add it\n"


def test_a_bug_keeps_its_traceback():
    @exit_with_one_sentence
    def main(argv=None):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        main()


def test_the_nearest_name_is_suggested_and_a_far_one_is_not():
    assert nearest("fashonIQ", ["fashioniq", "cirr"]) == " (did you mean 'fashioniq'?)"
    assert nearest("xyz", ["fashioniq", "cirr"]) == ""


def test_a_package_of_an_extra_is_named_with_the_line_that_installs_it(monkeypatch, capsys):
    require("faiss", "--ann")  # it is installed here
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"^--ann needs the package faiss: pip install 'unifashion\[search\]'$"):
        require("faiss", "--ann")

    @exit_with_one_sentence
    def main(argv):
        raise ModuleNotFoundError(f"No module named {argv[0]!r}", name=argv[0])

    with pytest.raises(SystemExit) as left:
        main(["gradio.themes"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: this command needs the package gradio: pip install 'unifashion[demo]'\n"
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):  # a bug of ours keeps its traceback
        main(["no_such_module"])
