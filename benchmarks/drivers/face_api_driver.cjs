// Runs @vladmandic/face-api through its public interface for the benchmark; jobs as in loop.py.
//
// The WASM backend and the tiny detector (416 px, its default), the faster of its two. Faces that
// are given go straight to the expression network.

const fs = require('fs');
const path = require('path');
const { createRequire } = require('module');
const readline = require('readline');

const installed = createRequire(path.join(process.cwd(), 'package.json'));
const decoder = installed('@canvas/image');
const tf = installed('@tensorflow/tfjs');
const wasm = installed('@tensorflow/tfjs-backend-wasm');
const faceapi = installed('@vladmandic/face-api/dist/face-api.node-wasm.js');

const NAMES = {
  neutral: 'neutral', happy: 'happiness', sad: 'sadness', angry: 'anger',
  fearful: 'fear', disgusted: 'disgust', surprised: 'surprise',
};
const label = (shares) => NAMES[Object.keys(NAMES).reduce((a, b) => (shares[a] >= shares[b] ? a : b))];
const area = (found) => {
  const { box } = found.detection || found;
  return box.width * box.height;
};
let options;
const cache = new Map();

async function read(file) {
  const canvas = await decoder.imageFromBuffer(fs.readFileSync(file));
  const { data } = decoder.getImageData(canvas);
  const pixels = new Int32Array(canvas.width * canvas.height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    pixels[to] = data[from];
    pixels[to + 1] = data[from + 1];
    pixels[to + 2] = data[from + 2];
  }
  return tf.tensor3d(pixels, [canvas.height, canvas.width, 3], 'int32');
}

async function readOnce(files) {
  const key = files.join('\n');
  if (!cache.has(key)) {
    cache.forEach((pictures) => pictures.forEach((picture) => picture.dispose()));
    cache.clear();
    cache.set(key, await Promise.all(files.map(read)));
  }
  return cache.get(key);
}

async function found(file) {
  const picture = await read(file);
  const faces = await faceapi.detectAllFaces(picture, options).withFaceExpressions();
  picture.dispose();
  return faces;
}

async function inOrder(files, work) {
  const answers = [];
  for (const file of files) answers.push(await work(file));
  return answers;
}

async function classify({ paths }) {
  const answer = await faceapi.nets.faceExpressionNet.predictExpressions(await readOnce(paths));
  return (Array.isArray(answer) ? answer : [answer]).map(label);
}

const WORKS = {
  versions: async () => ({
    'face-api': installed('@vladmandic/face-api/package.json').version,
    tfjs: installed('@tensorflow/tfjs/package.json').version,
    backend: tf.getBackend(),
    node: process.version,
  }),
  photos: ({ paths }) => inOrder(paths, async (file) => (await found(file)).length),
  video: async () => { throw new Error('it has no decoder of video outside a browser'); },
  detect: async (given) => {
    const [picture] = await readOnce([given.path]);
    return (await faceapi.detectAllFaces(picture, options)).length;
  },
  classify,
  classify_known: classify,
  recognise: ({ paths }) => inOrder(paths, async (file) => {
    const faces = await found(file);
    if (!faces.length) return '';
    return label(faces.reduce((a, b) => (area(a) >= area(b) ? a : b)).expressions);
  }),
};

function peakMemory() {
  if (!fs.existsSync('/proc/self/status')) return 0;
  return Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync('/proc/self/status', 'ascii'))[1]) / 1024;
}

async function answered(line) {
  try {
    const job = JSON.parse(line);
    const seconds = [];
    let value = null;
    for (let run = 0; run < (job.repeat || 1); run += 1) {
      const start = performance.now();
      value = await WORKS[job.do](job.with || {});
      seconds.push((performance.now() - start) / 1000);
    }
    return { value, seconds, peak_mb: peakMemory() };
  } catch (error) {
    return { error: `${error.name}: ${error.message}` };
  }
}

async function main() {
  wasm.setWasmPaths(`${path.dirname(installed.resolve('@tensorflow/tfjs-backend-wasm/package.json'))}/dist/`);
  wasm.setThreadsCount(Number(process.argv[2]));
  await tf.setBackend('wasm');
  await tf.ready();
  const models = path.join(path.dirname(installed.resolve('@vladmandic/face-api/package.json')), 'model');
  await faceapi.nets.tinyFaceDetector.loadFromDisk(models);
  await faceapi.nets.faceExpressionNet.loadFromDisk(models);
  options = new faceapi.TinyFaceDetectorOptions();
  const write = async (line) => process.stdout.write(`${JSON.stringify(await answered(line))}\n`);
  if (process.argv[3] === 'once') {
    await write(process.argv[4]);
  } else {
    for await (const line of readline.createInterface({ input: process.stdin })) await write(line);
  }
  process.exit(0);
}

main();
