/**
 * Small pictures on canvases: decoding, levels to opacity, and the cells of a mask as a path.
 *
 * This module keeps no state.
 */

const DECODED_SIDE = 2048; // of a decoded picture that is only displayed

export function canvasOf([width, height]) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** The bytes of a base64 string. */
export const blobOf = (base64, type = "image/png") =>
  new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], { type });

/** Decode a base64 PNG or a Blob to a canvas, in its own size or less. */
export async function decoded(source, longestSide = DECODED_SIDE) {
  const blob = source instanceof Blob ? source : blobOf(source);
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const scale = Math.min(1, longestSide / Math.max(bitmap.width, bitmap.height));
  const size = [bitmap.width, bitmap.height].map((n) => Math.max(1, Math.round(n * scale)));
  const canvas = canvasOf(size);
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(bitmap, 0, 0, ...size);
  bitmap.close();
  return canvas;
}

/** Turn grey levels into opacity. */
export function greyToAlpha(canvas) {
  const context = canvas.getContext("2d");
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let k = 0; k < pixels.length; k++) pixels[k] = (pixels[k] & 0xff) << 24;
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The share of a canvas that is opaque by half or more, and its columns, as shares of the width. */
export function coverage(canvas) {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const pixels = new Uint32Array(data.buffer);
  const columns = new Uint32Array(width); // of such pixels
  for (let y = 0, k = 0; y < height; y++) {
    for (let x = 0; x < width; x++, k++) columns[x] += pixels[k] >>> 31;
  }
  const count = columns.reduce((sum, n) => sum + n, 0);
  const first = columns.findIndex((n) => n);
  const last = columns.findLastIndex((n) => n);
  const extent = first < 0 ? null : [first / width, (last + 1) / width];
  return { share: count / (width * height), extent };
}

// -- latent cells ---------------------------------------------------------------------------------

/**
 * How the image is fitted into the network's canvas: `fitted` pixels starting at `from`, centred,
 * with its aspect ratio. A cell is `factor` pixels wide. Equals `place` in
 * diffedit/imaging/geometry.py. `grid`: { cells, canvas } of the server's response.
 */
export function placement(size, { cells, canvas }) {
  const full = size[0] * canvas[1] >= size[1] * canvas[0] ? 0 : 1; // the axis that it fills
  const fitted = canvas.map((n, axis) =>
    axis === full ? n : Math.max(1, roundHalfToEven((size[axis] * canvas[full]) / size[full])));
  const from = canvas.map((n, axis) => Math.floor((n - fitted[axis]) / 2));
  return { fitted, from, factor: canvas[0] / cells[0] };
}

/** Round like Python: halves go to the even neighbour. */
function roundHalfToEven(value) {
  const rounded = Math.round(value);
  return value % 1 === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/**
 * A mask of latent cells as a path in the image's pixels.
 *
 * `mask`: a canvas with the mask, white = edited, of the image's size or smaller. The path's edges
 * are those of the server's mask at full size: a pixel belongs to the cell that has its centre.
 */
export function pathOfCells(mask, size, grid) {
  const [columns, rows] = [0, 1].map((axis) => edgesOfCells(size, grid, axis));
  const { data } = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height);
  const isEdited = (column, row) => {
    const x = Math.floor((((column[0] + column[1]) / 2) * mask.width) / size[0]);
    const y = Math.floor((((row[0] + row[1]) / 2) * mask.height) / size[1]);
    return data[4 * (y * mask.width + x)] > 127;
  };
  const path = new Path2D();
  for (const row of rows) {
    for (let k = 0, begin = 0; k <= columns.length; k++) {
      if (k < columns.length && isEdited(columns[k], row)) continue;
      if (k > begin) {
        const [left, right] = [columns[begin][0], columns[k - 1][1]];
        path.rect(left, row[0], right - left, row[1] - row[0]);
      }
      begin = k + 1;
    }
  }
  return path;
}

/** The first pixel of each cell along an axis and the one after its last; no cells without pixels. */
function edgesOfCells(size, grid, axis) {
  const { fitted, from, factor } = placement(size, grid);
  const [pixels, image] = [fitted[axis], size[axis]];
  const edge = (cell) => {
    const first = Math.ceil((2 * image * (factor * cell - from[axis]) - pixels) / (2 * pixels));
    return Math.min(image, Math.max(0, first));
  };
  const edges = Array.from({ length: grid.cells[axis] }, (_, cell) => [edge(cell), edge(cell + 1)]);
  return edges.filter(([begin, end]) => end > begin);
}
