// Forms with files: what is dropped anywhere goes where it belongs, and goes up while the form is filled in.
"use strict";

{
  const sides = new Map(); // by name, of the forms on the page
  const NOUNS = { model: "a model", dataset: "rows" };
  const UNITS = ["bytes", "kB", "MB", "GB", "TB"];

  const size = (bytes, unit = Math.min(4, Math.max(0, Math.floor(Math.log10(bytes || 1) / 3)))) =>
    `${(bytes / 1000 ** unit).toFixed(unit ? 1 : 0)} ${UNITS[unit]}`;

  const rest = (seconds) =>
    seconds < 90 ? `${Math.max(1, Math.round(seconds))} s left` : `${Math.round(seconds / 60)} minutes left`;

  // What was begun is known after a reload, too: by side, since a form has one file of each.
  const begun = {
    key: (side) => `fedlas.upload.${side}`,
    get(side) {
      try {
        return JSON.parse(localStorage.getItem(this.key(side)));
      } catch {
        return null;
      }
    },
    set(side, entry) {
      try {
        if (entry) localStorage.setItem(this.key(side), JSON.stringify(entry));
        else localStorage.removeItem(this.key(side));
      } catch {
        // A browser that keeps nothing cannot go on after a reload; all else works.
      }
    },
  };

  const made = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  const button = (words, press) => {
    const element = made("button", { type: "button", className: "quiet", textContent: words });
    element.addEventListener("click", press);
    return element;
  };

  // The place of one file within a form.
  class Side {
    constructor(area) {
      this.name = area.dataset.drop;
      this.area = area;
      this.input = area.querySelector("input[type=file]");
      this.id = area.querySelector("input[type=hidden]");
      this.told = area.querySelector("[data-upload]");
      this.idle = [...this.told.childNodes];
      this.upload = null;
      sides.set(this.name, this);
      this.input.addEventListener("change", () => this.input.files[0] && this.chosen(this.input.files[0]));
      this.#recall();
    }

    // A file was chosen here; one that belongs to the other place goes there.
    async chosen(file) {
      const kind = await fedlas.kindOf(file);
      const other = kind.side && kind.side !== this.name ? sides.get(kind.side) : null;
      if (kind.refusal) return this.refuse(kind.refusal);
      if (other) {
        this.refuse(`${file.name} holds ${NOUNS[kind.side]}, so it was put there.`);
        return other.take(file);
      }
      if (kind.side && kind.side !== this.name) return this.refuse(`${file.name} holds ${NOUNS[kind.side]}; needed here: ${NOUNS[this.name]}.`);
      return this.take(file);
    }

    // Send this file; where another was begun, only after a question.
    async take(file) {
      const entry = begun.get(this.name);
      const own = { name: file.name, size: file.size, changed: file.lastModified, print: await fedlas.Upload.fingerprint(file) };
      const same = entry && ["name", "size", "changed", "print"].every((name) => entry[name] === own[name]);
      if (entry && !same && entry.offset > 0 && !this.upload) return this.#ask(file, entry, own);
      return this.#begin(file, same ? entry.id : null, own);
    }

    // Nothing is taken, and whatever was there before stays.
    refuse(sentence) {
      this.input.value = "";
      const alert = made("p", { className: "field-error", textContent: sentence });
      alert.setAttribute("role", "alert");
      if (this.upload) this.told.append(alert);
      else this.told.replaceChildren(alert);
    }

    async #begin(file, id, own) {
      if (this.upload) await this.upload.cancel();
      const files = new DataTransfer();
      files.items.add(file);
      this.input.files = files.files;
      this.upload = new fedlas.Upload(file, id, (upload) => {
        begun.set(this.name, upload.state === "cancelled" ? null : { ...own, id: upload.id, offset: upload.offset });
        this.#show(upload);
      });
      this.#frame(file);
      fedlas.announce(`${file.name} is being uploaded.`);
      this.upload.run();
    }

    #ask(file, entry, own) {
      this.told.replaceChildren(
        made("p", { textContent: `${file.name} is another file than ${entry.name}, of which ${size(entry.offset)} are there.` }),
        made("div", { className: "actions" },
          button(`Send ${file.name} instead`, async () => {
            await fedlas.Upload.remove(entry.id);
            this.#begin(file, null, own);
          }),
          button(`Choose ${entry.name} again`, () => this.#offer(entry))),
      );
    }

    // What is shown while a file goes up; numbers change within, so that nothing moves and focus stays.
    #frame(file) {
      this.line = made("p", { className: "upload-line" });
      this.bar = made("progress", { max: file.size, value: 0 });
      this.bar.setAttribute("aria-label", `Upload of ${file.name}`);
      this.hold = button("Pause", () => (this.upload.state === "paused" ? this.upload.run() : this.upload.pause()));
      this.told.replaceChildren(this.line, this.bar, made("div", { className: "actions" }, this.hold, button("Cancel", () => this.#cancel())));
    }

    #show(upload) {
      const whole = size(upload.file.size);
      const speed = upload.rate ? `, ${size(upload.rate)} a second, ${rest((upload.file.size - upload.offset) / upload.rate)}` : "";
      const words = {
        running: () => `${upload.file.name}: ${size(upload.offset)} of ${whole}${speed}`,
        paused: () => `${upload.file.name}: paused at ${size(upload.offset)} of ${whole}`,
        waiting: () => `${upload.file.name}: ${size(upload.offset)} of ${whole}. ${upload.reason}`,
        failed: () => upload.reason,
        done: () => `${upload.file.name}: all ${whole} are there.`,
        cancelled: () => "",
      }[upload.state]();
      this.line.textContent = words;
      this.bar.value = upload.offset;
      this.hold.textContent = upload.state === "paused" ? "Go on" : "Pause";
      this.hold.hidden = upload.state === "done" || upload.state === "failed";
      this.told.dataset.upload = upload.state;
      if (upload.state !== "running") fedlas.announce(words);
    }

    async #cancel() {
      const { upload } = this;
      this.#forget();
      await upload.cancel();
      begun.set(this.name, null);
      fedlas.announce("The upload was cancelled.");
    }

    #forget() {
      this.upload = null;
      this.id.value = "";
      this.input.value = "";
      this.told.dataset.upload = "";
      this.told.replaceChildren(...this.idle);
      this.input.focus();
    }

    // After a reload: the browser cannot open the file again, its owner can.
    async #recall() {
      const entry = begun.get(this.name);
      if (!entry?.id) return;
      if (entry.sent && this.id.value !== entry.id) return begun.set(this.name, null); // it has become a record
      const offset = await fedlas.Upload.found(entry.id).catch(() => null);
      if (offset === null) return begun.set(this.name, null);
      if (!this.upload) this.#offer({ ...entry, offset });
    }

    #offer(entry) {
      begun.set(this.name, { ...entry, sent: false });
      this.input.value = "";
      const whole = entry.offset === entry.size;
      this.id.value = whole ? entry.id : "";
      this.told.dataset.upload = whole ? "done" : "begun";
      this.bar = made("progress", { max: entry.size, value: entry.offset });
      this.bar.setAttribute("aria-label", `Upload of ${entry.name}`);
      const words = whole
        ? `${entry.name}: all ${size(entry.size)} are there.`
        : `${entry.name}: ${size(entry.offset)} of ${size(entry.size)} are there. Choose the file again to go on.`;
      this.told.replaceChildren(
        made("p", { className: "upload-line", textContent: words }),
        this.bar,
        made("div", { className: "actions" },
          button("Forget it", async () => {
            this.#forget();
            begun.set(this.name, null);
            await fedlas.Upload.remove(entry.id);
          })),
      );
    }

    // Wait until the file is there, and put its id in its place; false where its owner has given it up.
    async finished() {
      if (this.upload && !(await this.upload.done)) return false;
      const entry = begun.get(this.name);
      if (this.upload) this.id.value = this.upload.id;
      if (!this.id.value) return true;
      this.input.disabled = true;
      const name = this.input.form.elements[`${this.name}.name`];
      if (!name.value && (this.upload || entry)) name.value = this.upload?.file.name ?? entry.name;
      if (entry) begun.set(this.name, { ...entry, sent: true });
      return true;
    }
  }

  fedlas.onEach("form[data-files]", (form) => {
    const own = [...form.querySelectorAll("[data-drop]")].map((area) => new Side(area));
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

  const there = () => [...sides.values()].filter((side) => side.area.isConnected);
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
    const files = [...event.dataTransfer.files];
    if (files.length === 0 || open.length === 0) return;
    event.preventDefault();
    const target = open.find((side) => side.area.contains(event.target)) ?? (open.length === 1 ? open[0] : null);
    const kinds = await Promise.all(files.map(fedlas.kindOf));
    const of = (name) => files.filter((_, place) => (kinds[place].side ?? (kinds[place].refusal ? null : target?.name)) === name);
    for (const side of open) {
      const found = of(side.name);
      if (found.length > 1) side.refuse(`${found.map((file) => file.name).join(" and ")} are both ${side.name === "model" ? "models" : "rows"}: drop one of them.`);
      else if (found.length === 1) side.take(found[0]);
    }
    files.forEach((file, place) => {
      const { side, refusal } = kinds[place];
      const where = target ?? open[0];
      if (refusal) where.refuse(refusal);
      else if (side && !open.some((one) => one.name === side)) where.refuse(`${file.name} holds ${NOUNS[side]}, which are chosen already.`);
      else if (!side && !target) where.refuse(fedlas.unknownKind(file));
    });
  });
}
