// Forms with files: what is dropped anywhere goes where it belongs, and a form is sent once all is there.
"use strict";

{
  fedlas.onEach("form[data-files]", (form) => {
    const own = [...form.querySelectorAll("[data-drop]")].map((area) => new fedlas.UploadPlace(area));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const send = form.querySelector("button:not([type])");
      const words = send.textContent;
      Object.assign(send, { disabled: true, textContent: "Goes on once all is there" });
      const all = await Promise.all(own.map((side) => side.finished()));
      if (all.every(Boolean)) form.submit();
      else Object.assign(send, { disabled: false, textContent: words });
    });
  });

  // The page comes back as it was left, with its files sent: what is true now is asked anew.
  addEventListener("pageshow", (event) => event.persisted && location.reload());

  const there = () => [...fedlas.UploadPlace.all.values()].filter((side) => side.area.isConnected);
  const dragging = (on) => document.body.classList.toggle("dragging", on);

  addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files") || there().length === 0) return;
    event.preventDefault();
    dragging(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && dragging(false));
  addEventListener("drop", async (event) => {
    dragging(false);
    const open = there();
    const dropped = [...event.dataTransfer.files];
    const model = open.find((side) => side.weights);
    const weights = model && dropped.find(fedlas.areWeights);
    const files = dropped.filter((file) => file !== weights);
    if (dropped.length === 0 || open.length === 0) return;
    event.preventDefault();
    const target = open.find((side) => side.area.contains(event.target)) ?? (open.length === 1 ? open[0] : null);
    if (weights) model.weigh(weights);
    if (weights && model.graph) model.take(model.graph, true);
    const kinds = await Promise.all(files.map(fedlas.kindOf));
    const of = (name) => files.filter((_, place) => (kinds[place].side ?? (kinds[place].maybe ? target?.name : null)) === name);
    for (const side of open) {
      const taken = of(side.name);
      if (taken.length > 1) side.refuse(`${taken.map((file) => file.name).join(" and ")} are both ${side.name === "model" ? "models" : "rows"}: drop one of them.`);
      else if (taken.length === 1) side.take(taken[0]);
    }
    files.forEach((file, place) => {
      const { side, refusal } = kinds[place];
      const where = target ?? open[0];
      if (refusal) where.refuse(refusal);
      else if (side && !open.some((one) => one.name === side)) where.refuse(`${file.name} holds ${fedlas.UploadPlace.nouns[side]}, which are chosen already.`);
      else if (!side && !(target && kinds[place].maybe)) where.refuse(fedlas.unknownKind(file));
    });
  });
}
