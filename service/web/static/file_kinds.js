// The kind of a file, told from its content: what is read here of models and of rows, and what is never read.
"use strict";

{
  const HEAD = 4096;
  const TAIL = 65536;
  const IMAGES = /\.(png|jpe?g|webp|bmp|gif|tiff?)$/i;
  const READ = "a model is ONNX, rows are npz, csv, parquet or a zip of images";

  const TF2ONNX = (given) => `Write it as ONNX: python -m tf2onnx.convert --${given} --output model.onnx.`;
  const SHEET = "Save the sheet as csv (UTF-8).";

  // What is not read: the kind, its first bytes or the names that its zip holds, and what to do with a file of that name.
  const KINDS = [
    ["an XGBoost model", /^\{\s*"learner"|^\{L[^]{8}learner/, () => "Write it as ONNX with onnxmltools' convert_xgboost."],
    ["a LightGBM model", /^tree\r?\nversion=/, () => "Write it as ONNX with onnxmltools' convert_lightgbm."],
    ["a CatBoost model", /^CBM1[^]{3}[\0-\x08]/, () => 'Write it as ONNX with its save_model("model.onnx", format="onnx").'],
    ["a TensorFlow SavedModel", /^\x08\x01\x12/, () => TF2ONNX("saved-model FOLDER")],
    ["a TensorFlow SavedModel", ["saved_model.pb"], () => TF2ONNX("saved-model FOLDER")],
    ["a TensorFlow Lite model", /^[^]{3}\0TFL3/, (name) => TF2ONNX(`tflite ${name}`)],
    ["a Keras model", ["config.json", "model.weights.h5"], (name) => TF2ONNX(`keras ${name}`)],
    ["an HDF5 file", /^\x89HDF/, (name) => `Of a Keras model: ${TF2ONNX(`keras ${name}`)}`],
    ["a Hugging Face model", ["config.json", "model.safetensors"], () => "Write it as ONNX: optimum-cli export onnx --model FOLDER exported/."],
    ["a Hugging Face model", ["config.json", "pytorch_model.bin"], () => "Write it as ONNX: optimum-cli export onnx --model FOLDER exported/."],
    ["an Excel file", ["[Content_Types].xml"], () => SHEET],
    ["an old Excel file", /^\xd0\xcf\x11\xe0/, () => SHEET],
    ["one image", /^\x89PNG|^\xff\xd8\xff/, () => "Rows are many: put images into a zip, in a folder for each class."],
    ["a PDF document", /^%PDF/, () => `Read here: ${READ}.`],
  ];

  const notRead = (file, [what, , remedy]) => ({ refusal: `${file.name} is ${what}. ${remedy(file.name)}` });

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
    const held = names.map((name) => name.split("/").pop());
    const kind = KINDS.find(([, members]) => Array.isArray(members) && members.every((name) => held.includes(name)));
    if (kind) return notRead(file, kind);
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
    const start = String.fromCharCode(...head.subarray(0, 200));
    const kind = KINDS.find(([, pattern]) => pattern instanceof RegExp && pattern.test(start));
    if (kind) return notRead(file, kind);
    if (isSafetensors(head, file) || isOnnx(head)) return { side: "model" };
    if (isText(head) && isTable(new TextDecoder().decode(head), file)) return { side: "dataset" };
    return file.name.toLowerCase().endsWith(".onnx") ? { side: "model" } : {};
  };

  // What is said of a file whose content tells nothing.
  fedlas.unknownKind = (file) => `${file.name} is none of the files that are read here: ${READ}.`;
}
