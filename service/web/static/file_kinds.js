// The kind of a file, told from its content: what is read here of models and of rows, and what is never read.
"use strict";

{
  const HEAD = 4096;
  const TAIL = 65536;
  const IMAGES = /\.(png|jpe?g|webp|bmp|gif|tiff?)$/i;
  const READ = "a model is ONNX, rows are npz, csv, parquet or a zip of images";

  const bytesOf = async (file, from, to) => new Uint8Array(await file.slice(from, to).arrayBuffer());
  const begins = (bytes, ...start) => start.every((byte, place) => bytes[place] === byte);
  const begin = (bytes, word) => begins(bytes, ...new TextEncoder().encode(word));

  // Names of a zip's members, as far as its directory lies in the last bytes; else none.
  const memberNames = async (file) => {
    const tail = await bytesOf(file, Math.max(0, file.size - TAIL), file.size);
    const view = new DataView(tail.buffer);
    const names = [];
    for (let place = 0; place + 46 <= tail.length; place++) {
      if (view.getUint32(place, true) !== 0x02014b50) continue;
      const length = view.getUint16(place + 28, true);
      names.push(new TextDecoder().decode(tail.subarray(place + 46, place + 46 + length)));
      place += 45 + length;
    }
    return names;
  };

  const ofZip = async (file) => {
    const names = await memberNames(file);
    if (names.some((name) => /\.(pkl|pickle|joblib)$/i.test(name))) return pickle(file);
    if (names.length > 0 && names.every((name) => name.endsWith(".npy"))) return { side: "dataset" };
    if (names.some((name) => name.endsWith(".onnx"))) return { side: "model" };
    if (names.some((name) => IMAGES.test(name))) return { side: "dataset" };
    return { maybe: true };
  };

  const pickle = (file) => ({
    refusal: `${file.name} is a pickle (torch.save and joblib write them), which is never opened here because it can run code. Export the model as ONNX with torch.onnx.export, or save rows with numpy.savez.`,
  });

  const isSafetensors = (head, file) => {
    const length = head.length > 8 ? new DataView(head.buffer).getBigUint64(0, true) : 0n;
    return head[8] === 0x7b && length > 1n && length < BigInt(file.size);
  };

  // The first field of a model is its version, a small number, and another field of ModelProto follows.
  const isOnnx = (head) => head[0] === 0x08 && head[1] < 0x40 && [0x12, 0x1a, 0x22, 0x28, 0x32, 0x3a, 0x42].includes(head[2]);

  const isText = (head) => {
    try {
      // A character may be cut at the end.
      return !/[\0-\x08\x0e-\x1f]/.test(new TextDecoder("utf-8", { fatal: true }).decode(head, { stream: true }));
    } catch {
      return false;
    }
  };

  // Its first rows have as many fields as its heading; what is called a table may have some in quotes.
  const isTable = (text, file) => {
    const [heading, first] = text.split(/\r?\n/).map((line) => line.split(/[,;\t]/).length);
    return heading > 1 && (heading === first || /\.(csv|tsv|txt)$/i.test(file.name));
  };

  // `side` is `model` or `dataset`, and left out where the content does not tell, `maybe` for an archive; `refusal` says why it is not taken.
  fedlas.kindOf = async (file) => {
    if (file.size === 0) return { refusal: `${file.name} is empty. Look at what has written it, then choose it again.` };
    let head;
    try {
      head = await bytesOf(file, 0, HEAD);
    } catch {
      return { refusal: `${file.name} cannot be read: it is a folder, or was moved since it was chosen.` };
    }
    if (fedlas.areWeights(file)) return { side: "weights" };
    if (begin(head, "PK")) return ofZip(file);
    if (begin(head, "PAR1")) return { side: "dataset" };
    if (head[0] === 0x80 && head[1] >= 2 && head[1] <= 5) return pickle(file);
    if (begins(head, 0x89, 0x48, 0x44, 0x46))
      return { refusal: `${file.name} is an HDF5 file, which is not read here: ${READ}. Export a Keras model with tf2onnx.` };
    if (begins(head, 0x89, 0x50, 0x4e, 0x47) || begins(head, 0xff, 0xd8, 0xff))
      return { refusal: `${file.name} is one image. Rows are many: put images into a zip, in a folder for each class.` };
    if (begin(head, "%PDF")) return { refusal: `${file.name} is a PDF document: ${READ}.` };
    if (isSafetensors(head, file) || isOnnx(head)) return { side: "model" };
    if (isText(head) && isTable(new TextDecoder().decode(head), file)) return { side: "dataset" };
    return file.name.toLowerCase().endsWith(".onnx") ? { side: "model" } : {};
  };

  // What is said of a file whose content tells nothing.
  fedlas.unknownKind = (file) => `${file.name} is none of the files that are read here: ${READ}.`;
}
