// Images that are dropped are those of the form's field.
"use strict";

fedlas.onEach("[data-drop]", (place) => {
  const field = place.querySelector("input[type=file]");
  const over = (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    place.classList.toggle("over", event.type === "dragover");
  };
  place.addEventListener("dragover", over);
  place.addEventListener("dragleave", over);
  place.addEventListener("drop", (event) => {
    over(event);
    field.files = event.dataTransfer.files;
    fedlas.announce(`${field.files.length} images chosen`);
  });
});
