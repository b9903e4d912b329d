// The weights of a graph that keeps them in a second file: both go up as one zip, in which neither is compressed.
"use strict";

{
  const PIECE = 1024 * 1024;
  const REMAINDERS = Uint32Array.from({ length: 256 }, (_, rest) => {
    for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? 0xedb88320 ^ (rest >>> 1) : rest >>> 1;
    return rest;
  });

  const checksum = async (file) => {
    let sum = 0xffffffff;
    for (let from = 0; from < file.size; from += PIECE)
      for (const byte of new Uint8Array(await file.slice(from, from + PIECE).arrayBuffer()))
        sum = REMAINDERS[(sum ^ byte) & 0xff] ^ (sum >>> 8);
    return (sum ^ 0xffffffff) >>> 0;
  };

  // Numbers of two or four bytes, as pairs of size and value.
  const packed = (...pairs) => {
    const view = new DataView(new ArrayBuffer(pairs.reduce((sum, [size]) => sum + size, 0)));
    let place = 0;
    for (const [size, value] of pairs) {
      if (size === 2) view.setUint16(place, value, true);
      else view.setUint32(place, value, true);
      place += size;
    }
    return view.buffer;
  };

  // Whether a file's name is one that exporters give to weights beside a graph.
  fedlas.areWeights = (file) => /\.onnx[._]\w+$/i.test(file.name);

  // The zip of a graph and its weights, under the graph's name; nothing of it lies in memory.
  fedlas.withWeights = async (graph, weights) => {
    const named = /\.onnx$/.test(graph.name) ? graph.name : `${graph.name}.onnx`;
    const parts = [];
    const directory = [];
    let offset = 0;
    for (const [name, file] of [[named, graph], [weights.name, weights]]) {
      const letters = new TextEncoder().encode(name);
      const sizes = [[4, await checksum(file)], [4, file.size], [4, file.size], [2, letters.length], [2, 0]];
      const common = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 0x21], ...sizes];
      const header = packed([4, 0x04034b50], ...common);
      parts.push(header, letters, file);
      directory.push(packed([4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]), letters);
      offset += header.byteLength + letters.length + file.size;
    }
    const length = directory.reduce((sum, part) => sum + part.byteLength, 0);
    const end = packed([4, 0x06054b50], [2, 0], [2, 0], [2, 2], [2, 2], [4, length], [4, offset], [2, 0]);
    return new File([...parts, ...directory, end], graph.name, { lastModified: graph.lastModified });
  };
}
