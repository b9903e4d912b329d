// Pictures of reports as files: each drawing as it stands in the page (SVG), or painted three times as large (PNG).
"use strict";

(() => {
  const SCALE = 3;

  // A drawing carries the colours of a light page itself; those of this page are its style sheet's.
  const svgOf = (figure) =>
    new Blob([new XMLSerializer().serializeToString(figure.querySelector("svg"))], { type: "image/svg+xml" });

  async function pngOf(figure) {
    const address = URL.createObjectURL(svgOf(figure));
    try {
      const image = new Image();
      image.src = address;
      await image.decode();
      const canvas = document.createElement("canvas");
      canvas.width = SCALE * image.naturalWidth;
      canvas.height = SCALE * image.naturalHeight;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      return await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    } finally {
      URL.revokeObjectURL(address);
    }
  }

  function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // a browser reads it after the click
    fedlas.announce(`${name} is saved.`);
  }

  fedlas.onEach("figure[data-picture]", (figure) => {
    const actions = document.createElement("div");
    actions.className = "actions save";
    for (const [kind, made] of [["SVG", svgOf], ["PNG", pngOf]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.textContent = kind;
      button.setAttribute("aria-label", `Save ${figure.dataset.picture} as ${kind}`);
      button.addEventListener("click", async () => save(await made(figure), `${figure.dataset.picture}.${kind.toLowerCase()}`));
      actions.append(button);
    }
    figure.append(actions);
  });
})();
