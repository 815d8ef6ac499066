/* Runs once for every part of the page and listens on the part, whose contents come and go: an element with data-uf was clicked, or a
   picture was chosen or dropped. Files travel as text in an event, because Gradio's own upload address is closed (middleware.py). */
const LIMIT = Number(props.limit);

function reject(message) {
  trigger("rejected", { message });
}

function read(file, name) {
  if (!file) return;
  if (!file.type.startsWith("image/")) return reject("That file is not a picture.");
  if (file.size > LIMIT) return reject(`The picture is larger than ${Math.floor(LIMIT / 1048576)} MiB; choose a smaller one.`);
  const reader = new FileReader();
  reader.onerror = () => reject("The picture could not be read from this device.");
  reader.onload = () => trigger("upload", { name, picture: reader.result });
  reader.readAsDataURL(file);
}

element.addEventListener("click", (event) => {
  const target = event.target.closest("[data-uf]");
  if (!target || !element.contains(target)) return;
  trigger("click", { ...target.dataset });
  if (target.dataset.uf !== "refer") return;
  window.scrollTo({ top: 0, behavior: "smooth" });
  if (matchMedia("(pointer: fine)").matches) document.querySelector("#uf-words input").focus({ preventScroll: true });
});
element.addEventListener("change", (event) => {
  const field = event.target.closest("[data-uf-file]");
  if (!field) return;
  read(field.files[0], field.dataset.ufFile);
  field.value = "";  // so that the same file can be chosen again
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  element.addEventListener(kind, (event) => {
    const zone = event.target.closest("[data-uf-drop]");
    if (!zone) return;
    event.preventDefault();
    zone.classList.toggle("uf-over", kind === "dragover");
    if (kind === "drop") read(event.dataTransfer.files[0], zone.querySelector("input").dataset.ufFile);
  });
}
/* Errors and loads of images do not bubble: "true" listens on the way down. */
element.addEventListener("error", (event) => {
  if (event.target.tagName === "IMG") event.target.classList.add("uf-missing");
}, true);
/* The frames of all products take the shape of the first photo that arrives, between tall and square. */
element.addEventListener("load", (event) => {
  const image = event.target, root = document.documentElement;
  if (image.tagName !== "IMG" || !image.closest(".uf-photo") || root.style.getPropertyValue("--uf-ratio")) return;
  root.style.setProperty("--uf-ratio", Math.min(1, Math.max(0.66, image.naturalWidth / image.naturalHeight)));
}, true);
