// Scores: a file that is dropped is the form's, and a threshold is dragged over the rows that judged it.
"use strict";

fedlas.onEach("[data-scores-file]", (place) => {
  const field = place.querySelector("input[type=file]");
  const over = (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    place.classList.toggle("over", event.type === "dragover");
  };
  for (const kind of ["dragover", "dragleave", "drop"]) place.addEventListener(kind, over);
  place.addEventListener("drop", (event) => {
    field.files = event.dataTransfer.files;
    if (field.files.length) fedlas.announce(`${field.files[0].name} is chosen.`);
  });
});

// A row holds the words of a threshold by name, and whether it is the promised one.
fedlas.onEach("[data-thresholds]", (place) => {
  const rows = JSON.parse(place.dataset.thresholds);
  const slider = place.querySelector("input");
  const line = place.parentElement.querySelector("[data-dragged]");
  const [low, high, left, across] = line.dataset.dragged.split(" ").map(Number);
  slider.addEventListener("input", () => {
    const row = rows[slider.value];
    slider.setAttribute("aria-valuetext", row.score);
    for (const cell of place.querySelectorAll("[data-cell]")) cell.textContent = row[cell.dataset.cell];
    for (const words of place.querySelectorAll("[data-promised]")) words.hidden = words.dataset.promised !== String(row.promised);
    line.setAttribute("transform", `translate(${left + (across * (Number(row.score) - low)) / (high - low)})`);
    line.setAttribute("visibility", row.promised ? "hidden" : "visible");
  });
});
