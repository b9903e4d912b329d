// A resumable upload: a file goes up in pieces, waits while the connection is away, and goes on where it was.
"use strict";

{
  const MIB = 1024 * 1024;
  const SMALLEST = MIB;
  const LARGEST = 16 * MIB;
  const LONGEST_WAIT = 8000;

  // What passes by itself: the upload waits and tries again.
  class Passing extends Error {}

  const base64 = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));

  // Digests need a secure context: loopback, or TLS.
  const digest = async (buffer) => (crypto.subtle ? base64(await crypto.subtle.digest("SHA-256", buffer)) : null);

  const call = async (path, options, signal) => {
    try {
      return await fetch(`/session/v1/uploads${path}`, { cache: "no-store", signal, ...options });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Passing("The connection is lost. What is there stays there, and this goes on by itself.");
    }
  };

  const sleep = (milliseconds) =>
    new Promise((resolve) => {
      setTimeout(resolve, milliseconds);
      addEventListener("online", resolve, { once: true });
    });

  fedlas.Upload = class {
    // `changed` is called whenever something of it is to be shown anew.
    constructor(file, id, changed) {
      Object.assign(this, { file, id, offset: 0, rate: 0, state: "running", reason: "" });
      this.changed = changed;
      this.known = false; // whether `offset` is what the service has
      this.piece = SMALLEST;
      this.done = new Promise((resolve) => (this.settle = resolve));
    }

    // The first MiB, by which a file is known again.
    static fingerprint = async (file) => digest(await file.slice(0, MIB).arrayBuffer());

    // How much of an upload is there; null where it is gone.
    static async found(id) {
      const answer = await call(`/${id}`, { method: "HEAD" });
      return answer.ok ? Number(answer.headers.get("Upload-Offset")) : null;
    }

    static remove = (id) => call(`/${id}`, { method: "DELETE" }).catch(() => null);

    async run() {
      const { signal } = (this.aborted = new AbortController());
      let wait = 500;
      this.#become("running");
      while (!signal.aborted) {
        try {
          await this.#step(signal);
          wait = 500;
          if (this.known && this.offset === this.file.size) return this.#end("done");
          this.#become("running");
        } catch (error) {
          if (signal.aborted) return;
          this.known = false;
          if (!(error instanceof Passing)) return this.#end("failed", error.message);
          this.#become("waiting", error.message);
          await sleep(wait);
          wait = Math.min(2 * wait, LONGEST_WAIT);
        }
      }
    }

    pause() {
      this.aborted.abort();
      this.known = false;
      this.#become("paused");
    }

    async cancel() {
      this.aborted.abort();
      this.#end("cancelled");
      if (this.id) await fedlas.Upload.remove(this.id);
    }

    async #step(signal) {
      if (!this.id) return this.#announce(signal);
      if (!this.known) return this.#ask(signal);
      return this.#send(signal);
    }

    async #announce(signal) {
      const headers = { "Content-Type": "application/json" };
      const body = JSON.stringify({ bytes: this.file.size });
      const answer = await call("", { method: "POST", headers, body }, signal);
      if (!answer.ok) await this.#refused(answer);
      Object.assign(this, { id: (await answer.json()).id, offset: 0, known: true });
    }

    async #ask(signal) {
      const answer = await call(`/${this.id}`, { method: "HEAD" }, signal);
      if (answer.status === 404) return void Object.assign(this, { id: null, offset: 0 }); // older than a day: anew
      if (!answer.ok) await this.#refused(answer);
      Object.assign(this, { offset: Number(answer.headers.get("Upload-Offset")), known: true });
    }

    async #send(signal) {
      const content = await this.#read();
      const sum = await digest(content);
      const headers = { "Content-Type": "application/octet-stream", "Upload-Offset": String(this.offset) };
      if (sum) headers["Upload-Checksum"] = `sha256 ${sum}`;
      const began = performance.now();
      const answer = await call(`/${this.id}`, { method: "PATCH", headers, body: content }, signal);
      if (!answer.ok) return this.#refused(answer);
      this.#measure(content.byteLength, (performance.now() - began) / 1000);
      this.offset = Number(answer.headers.get("Upload-Offset"));
    }

    async #read() {
      try {
        return await this.file.slice(this.offset, this.offset + this.piece).arrayBuffer();
      } catch {
        throw new Error(`${this.file.name} was changed or moved since it was chosen. Choose it again.`);
      }
    }

    // Pieces take about a second: few requests over a good connection, little to send again over a bad one.
    #measure(bytes, seconds) {
      const rate = bytes / Math.max(seconds, 0.001);
      this.rate = this.rate ? 0.7 * this.rate + 0.3 * rate : rate;
      this.piece = Math.min(LARGEST, Math.max(SMALLEST, seconds < 0.5 ? 2 * this.piece : seconds > 2 ? this.piece / 2 : this.piece));
    }

    async #refused(answer) {
      if (answer.status === 401)
        throw new Passing("Your session has ended. Sign in in another tab, and this goes on by itself.");
      if ([404, 408, 409, 429, 500, 502, 503, 504].includes(answer.status))
        throw new Passing("The service cannot take more just now. This goes on by itself.");
      const problem = await answer.json().catch(() => ({}));
      throw new Error(problem.detail ? `${problem.detail}.` : `The service has refused the file (${answer.status}).`);
    }

    #become(state, reason = "") {
      Object.assign(this, { state, reason });
      this.changed(this);
    }

    #end(state, reason) {
      this.#become(state, reason);
      this.settle(state === "done");
    }
  };
}
