// The place of a file within a form: what is sent there, how far it is, and what was begun there before.
"use strict";

{
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

  fedlas.UploadPlace = class {
    static all = new Map(); // by name, of the forms on the page
    static nouns = NOUNS;

    constructor(area) {
      this.name = area.dataset.drop;
      this.area = area;
      this.input = area.querySelector("input[type=file]");
      this.id = area.querySelector("input[type=hidden]");
      this.weights = area.querySelector("[data-weights]");
      this.told = area.querySelector("[data-upload]");
      this.idle = [...this.told.childNodes];
      Object.assign(this, { upload: null, begun: null, asking: false });
      fedlas.UploadPlace.all.set(this.name, this);
      this.input.addEventListener("change", () => this.input.files[0] && this.chosen(this.input.files[0]));
      this.weights?.addEventListener("change", () => this.graph && this.take(this.graph, true));
      this.#recall();
    }

    // A file was chosen here; one that belongs to the other place goes there.
    async chosen(file) {
      const kind = await fedlas.kindOf(file);
      const other = kind.side && kind.side !== this.name ? fedlas.UploadPlace.all.get(kind.side) : null;
      if (kind.refusal) return this.refuse(kind.refusal);
      if (kind.side === "weights") return this.refuse(`${file.name} holds weights: choose their graph here, and ${file.name} below it.`);
      if (!kind.side && !kind.maybe) return this.refuse(fedlas.unknownKind(file));
      if (other) {
        this.refuse(`${file.name} holds ${NOUNS[kind.side]}, so it was put there.`);
        return other.take(file);
      }
      if (kind.side && kind.side !== this.name) return this.refuse(`${file.name} holds ${NOUNS[kind.side]}; needed here: ${NOUNS[this.name]}.`);
      return this.take(file);
    }

    // Send this file, with its weights where they were chosen; where another is there, or on its way, only after a question.
    async take(file, instead = false) {
      this.graph = file;
      if (this.weights?.files[0]) file = await fedlas.withWeights(file, this.weights.files[0]);
      const own = { name: file.name, size: file.size, changed: file.lastModified, print: await fedlas.Upload.fingerprint(file) };
      const there = this.begun ?? begun.get(this.name);
      const same = there && ["name", "size", "changed", "print"].every((name) => there[name] === own[name]);
      if (instead || !there?.offset) return this.#begin(file, null, own);
      if (!same) return this.#ask(file, own, there);
      if (this.upload?.state === "failed" || !this.upload) this.#begin(file, there.id, own);
    }

    // Nothing is taken, and whatever was there before stays.
    refuse(sentence) {
      this.#hold(this.upload?.file);
      const alert = made("p", { className: "field-error", textContent: sentence });
      alert.setAttribute("role", "alert");
      this.told.querySelector("[role=alert]")?.remove();
      if (this.begun || this.asking) this.told.append(alert);
      else this.told.replaceChildren(alert);
    }

    // Weights that were dropped are chosen, as if by hand.
    weigh(file) {
      const files = new DataTransfer();
      files.items.add(file);
      this.weights.files = files.files;
    }

    // What the browser shows as chosen.
    #hold(file) {
      const files = new DataTransfer();
      if (file) files.items.add(file);
      this.input.files = files.files;
    }

    async #begin(file, id, own) {
      if (this.upload && this.upload.id !== id) await this.upload.cancel();
      this.asking = false;
      this.begun = own;
      this.upload = new fedlas.Upload(file, id, (upload) => {
        if (upload.state === "cancelled") return begun.set(this.name, null);
        Object.assign(own, { id: upload.id, offset: upload.offset });
        begun.set(this.name, own);
        this.#show(upload);
      });
      this.#frame();
      fedlas.announce(`${file.name} is being uploaded.`);
      this.upload.run();
    }

    // What is there goes on meanwhile; nothing is sent on before there is an answer.
    #ask(file, own, there) {
      this.asking = true;
      this.id.value = "";
      this.told.replaceChildren(
        made("p", { textContent: `${file.name} is another file than ${there.name}, of which ${size(there.offset)} are there.` }),
        made("div", { className: "actions" },
          button(`Send ${file.name} instead`, async () => {
            if (!this.upload) await fedlas.Upload.remove(there.id);
            this.#begin(file, null, own);
          }),
          button(this.upload ? `Stay with ${there.name}` : `Choose ${there.name} again`, () => {
            this.asking = false;
            if (this.upload) this.#frame();
            else this.#offer(there);
          })),
      );
      this.told.querySelector("button").focus();
      fedlas.announce(this.told.firstChild.textContent);
    }

    // What is shown while a file goes up; numbers change within, so that nothing moves and focus stays.
    #frame() {
      const { upload } = this;
      this.line = made("p", { className: "upload-line" });
      this.bar = made("progress", { max: upload.file.size, value: 0 });
      this.bar.setAttribute("aria-label", `Upload of ${upload.file.name}`);
      this.hold = button("Pause", () => (upload.state === "paused" ? upload.run() : upload.pause()));
      this.told.replaceChildren(this.line, this.bar, made("div", { className: "actions" }, this.hold, button("Cancel", () => this.#cancel())));
      this.#hold(upload.file);
      this.#show(upload);
    }

    #show(upload) {
      const whole = size(upload.file.size);
      const speed = upload.rate ? `, ${size(upload.rate)} a second, ${rest((upload.file.size - upload.offset) / upload.rate)}` : "";
      const words = {
        running: `${upload.file.name}: ${size(upload.offset)} of ${whole}${speed}`,
        paused: `${upload.file.name}: paused at ${size(upload.offset)} of ${whole}`,
        waiting: `${upload.file.name}: ${size(upload.offset)} of ${whole}. ${upload.reason}`,
        failed: upload.reason,
        done: `${upload.file.name}: all ${whole} are there.`,
      }[upload.state];
      this.line.textContent = words;
      this.bar.value = upload.offset;
      this.hold.textContent = upload.state === "paused" ? "Go on" : "Pause";
      this.hold.hidden = upload.state === "done" || upload.state === "failed";
      if (upload.state !== "running") fedlas.announce(words);
    }

    async #cancel() {
      const { upload } = this;
      this.#forget();
      await upload.cancel();
      fedlas.announce("The upload was cancelled.");
    }

    #forget() {
      Object.assign(this, { upload: null, begun: null, graph: null });
      begun.set(this.name, null);
      this.id.value = "";
      this.input.value = "";
      if (this.weights) this.weights.value = "";
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
      this.begun = entry;
      begun.set(this.name, { ...entry, sent: false });
      this.input.value = "";
      const whole = entry.offset === entry.size;
      this.id.value = whole ? entry.id : "";
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
            await fedlas.Upload.remove(entry.id);
          })),
      );
    }

    // Wait until the file is there, and put its id in its place; false where its owner has given it up.
    async finished() {
      if (this.asking) this.told.querySelector("button").focus();
      if (this.asking || (this.upload && !(await this.upload.done))) return false;
      if (this.upload) this.id.value = this.upload.id;
      if (!this.id.value) return true;
      this.input.disabled = true;
      if (this.weights) this.weights.disabled = true;
      const name = this.input.form.elements[`${this.name}.name`];
      if (!name.value && this.begun) name.value = this.begun.name;
      if (this.begun) begun.set(this.name, { ...this.begun, sent: true });
      return true;
    }
  };
}
