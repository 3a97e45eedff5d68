/* The page of `serve`: send images, frames of a video or of a camera to /predict and show the results. */
'use strict';

(async () => {
  const {make, partsOf, summarize} = dense;
  const byId = (id) => document.getElementById(id);
  const AT_ONCE = 2; // requests
  const MOST_FRAMES = 1000; // of a video
  const SCORE = 0.3;
  const items = []; // {name, content, result, error, button}
  let model, current = null, bitmap = null, run = 0, waiting = [], active = 0, workers = 0, isPending = false, isLive = false;

  const say = (text) => (byId('status').textContent = text);
  try {
    model = await (await fetch('model')).json();
  } catch (error) {
    return say(`The server cannot be reached (${error.message}); reload this page when it runs.`);
  }
  document.title = `${model.title} - repvit-dense`;
  document.querySelector('h1').textContent = model.title;
  const choice = new dense.Choice(byId('choice'), dense.coloursOf(model.classes, model.palette), SCORE, () => {
    viewer.draw();
    summarizeAll();
  });
  const viewer = new dense.Viewer(byId('canvas'), choice, (direction) => select(items[items.indexOf(current) + direction]));
  byId('zoom').append(...dense.zoomButtons(viewer));
  choice.offer([]);

  /** Return the prediction for an image; a busy server is asked again. */
  async function predict(content, turn) {
    if (content.size > model.max_bytes) {
      throw new Error(`has ${(content.size / 1e6).toFixed(1)} MB, at most ${model.max_bytes / 1e6} are accepted`);
    }
    for (;;) {
      const headers = {'Content-Type': content.type.startsWith('image/') ? content.type : 'application/octet-stream'};
      const answer = await fetch('predict', {method: 'POST', body: content, headers}).catch(() => {
        throw new Error('the server cannot be reached');
      });
      if (answer.ok) return answer.json();
      if (answer.status !== 503 || turn !== run) {
        throw new Error((await answer.json().catch(() => ({}))).error ?? `the server answers ${answer.status}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 1000 * (Number(answer.headers.get('Retry-After')) || 1)));
    }
  }

  // --- the list of images ---

  function add(name, content) {
    const item = {name, content, button: make('button', {type: 'button', onclick: () => select(item)}, name)};
    item.note = item.button.appendChild(make('small', {textContent: 'waiting'}));
    items.push(item);
    byId('items').append(make('li', {}, item.button));
    return item;
  }

  async function finish(item, turn) {
    try {
      item.result = await predict(item.content, turn);
    } catch (error) {
      item.error = error.message;
    }
    if (!items.includes(item)) return;
    refresh();
    if (!current || current === item) await select(item);
  }

  /** Predict waiting images, a few at once. */
  async function work() {
    if (workers >= AT_ONCE) return;
    workers++;
    await during(async (turn) => {
      for (let item; turn === run && (item = waiting.shift());) await finish(item, turn);
    });
    workers--;
  }

  /** Run a part of the work; the last one to end ends the run. */
  async function during(part) {
    const turn = run;
    active++;
    await part(turn);
    active--;
    if (!active && turn === run) end();
  }

  async function select(item) {
    if (!item) return;
    current = item;
    for (const each of items) each.button.setAttribute('aria-current', each === item);
    item.button.scrollIntoView({block: 'nearest'});
    const image = await createImageBitmap(item.content).catch(() => null); // of a kind that browsers do not show
    if (current !== item) return image?.close();
    bitmap?.close();
    bitmap = image;
    show(image, item.result, item.name);
    if (!image && !item.result) byId('summary').textContent = `${item.name}: ${item.error ?? 'waiting'}`;
  }

  function show(image, result, name) {
    const {width, height} = result ?? image ?? {width: 1, height: 1};
    viewer.show(image ?? make('canvas', {width: 1, height: 1}), width, height, result, name);
    summarizeAll();
  }

  /** Update everything that depends on the results, once per frame. */
  function refresh() {
    if (isPending) return;
    isPending = true;
    requestAnimationFrame(() => {
      isPending = false;
      choice.offer(items.flatMap((item) => item.result ?? []));
      const done = items.filter((item) => item.result || item.error).length;
      byId('progress').max = Math.max(items.length, 1);
      byId('progress').value = done;
      if (done < items.length) say(`${done} of ${items.length} images`);
      byId('download').disabled = !items.some((item) => item.result);
      byId('clear').disabled = !items.length;
      viewer.draw();
      summarizeAll();
    });
  }

  function summarizeAll() {
    const text = (item) => item.error ?? (item.result ? summarize(shownOf(item.result)) : 'waiting');
    for (const item of items) item.note.textContent = text(item);
    if (current) byId('summary').textContent = `${current.name}: ${text(current)}`;
  }

  const shownOf = (result) => partsOf(result).filter((part) => choice.shows(part));

  // --- running and stopping ---

  function begin() {
    run++;
    byId('stop').hidden = byId('progress').hidden = false;
    return run;
  }

  function end() {
    byId('stop').hidden = byId('progress').hidden = true;
    const failed = items.filter((item) => item.error).length;
    const count = items.length === 1 ? '1 image' : `${items.length} images`;
    say(items.length ? count + (failed ? `, ${failed} failed` : '') : '');
    refresh();
  }

  byId('stop').onclick = () => {
    run++;
    for (const item of waiting.splice(0)) item.error = 'stopped';
    end();
  };
  byId('clear').onclick = () => {
    byId('stop').onclick();
    items.splice(0);
    byId('items').replaceChildren();
    byId('summary').textContent = '';
    current = viewer.image = null;
    end();
    viewer.draw();
  };
  byId('download').onclick = () => {
    const entries = items.filter((item) => item.result).map(({name, result}) => {
      const shown = (parts) => parts.filter((part) => choice.shows(part));
      return {image: name, ...result, objects: shown(result.objects), segments: shown(result.segments)};
    });
    const url = URL.createObjectURL(new Blob([JSON.stringify(entries, null, 1)], {type: 'application/json'}));
    make('a', {href: url, download: 'predictions.json'}).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };

  // --- images, videos, camera ---

  async function take(files) {
    if (isLive) byId('stop').onclick();
    if (byId('stop').hidden) begin();
    await during(async (turn) => {
      for (const file of files) if (!file.type.startsWith('video/')) waiting.push(add(file.name || 'image', file));
      refresh();
      for (let i = 0; i < AT_ONCE; i++) work();
      for (const file of files) if (file.type.startsWith('video/') && turn === run) await watch(file, turn);
    });
  }

  const event = (target, name) => new Promise((resolve, reject) => {
    target.addEventListener(name, resolve, {once: true});
    target.addEventListener('error', reject, {once: true});
  });

  /** Return what a video element shows as a JPEG file, and as a canvas. */
  async function grab(video) {
    const canvas = make('canvas', {width: video.videoWidth, height: video.videoHeight});
    canvas.getContext('2d').drawImage(video, 0, 0);
    return {canvas, content: await new Promise((resolve) => canvas.toBlob(resolve, 'image/jpeg', 0.92))};
  }

  /** Predict frames of a video at equal distances, one after the other. */
  async function watch(file, turn) {
    const video = make('video', {muted: true, preload: 'auto', src: URL.createObjectURL(file)});
    try {
      await event(video, 'loadeddata');
      if (video.duration === Infinity) { // a recording of a browser says its length at its end only
        video.currentTime = 1e9;
        await event(video, 'seeked');
      }
      const rate = Math.min(Math.max(Number(byId('rate').value) || 2, 0.1), 30);
      const count = Math.min(Math.max(1, Math.ceil(video.duration * rate)), MOST_FRAMES);
      for (let i = 0; i < count && turn === run; i++) {
        video.currentTime = Math.min(i / rate, video.duration);
        await event(video, 'seeked');
        say(`${file.name}: frame ${i + 1} of ${count}` + (count === MOST_FRAMES ? ' (no more are predicted)' : ''));
        const item = add(`${file.name} ${(i / rate).toFixed(2)} s`, (await grab(video)).content);
        await finish(item, turn);
        await select(item);
      }
    } catch {
      const item = add(file.name, file);
      item.error = 'this browser cannot play the video';
      refresh();
    } finally {
      URL.revokeObjectURL(video.src);
    }
  }

  byId('camera').onclick = async () => {
    if (!navigator.mediaDevices) return say('The camera is available on localhost and over https only.');
    const stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}}).catch((error) => {
      say(`The camera cannot be used: ${error.message}.`);
    });
    if (!stream) return;
    byId('stop').onclick();
    const turn = begin();
    isLive = byId('progress').hidden = true;
    const video = make('video', {muted: true, playsInline: true, srcObject: stream});
    let last, began = performance.now(), seconds = null;
    try {
      await video.play();
      while (turn === run) {
        const {canvas, content} = await grab(video);
        const result = await predict(content, turn);
        if (turn !== run) break;
        last = {content, result};
        current = null;
        choice.offer([result]);
        show(canvas, result, 'camera');
        byId('summary').textContent = summarize(shownOf(result));
        const now = performance.now();
        seconds = seconds === null ? (now - began) / 1000 : 0.8 * seconds + (0.2 * (now - began)) / 1000;
        began = now;
        say(`Camera: ${(1 / seconds).toFixed(1)} frames per second`);
      }
    } catch (error) {
      say(`Camera: ${error.message}`);
      byId('stop').hidden = true;
    } finally {
      for (const track of stream.getTracks()) track.stop();
      isLive = false;
    }
    if (last) { // the last frame stays
      const item = Object.assign(add(`camera ${new Date().toLocaleTimeString()}`, last.content), {result: last.result});
      end();
      select(item);
    }
  };

  byId('files').onchange = () => {
    take([...byId('files').files]);
    byId('files').value = '';
  };
  document.addEventListener('paste', ({clipboardData}) => clipboardData.files.length && take([...clipboardData.files]));
  for (const name of ['dragover', 'dragleave', 'drop']) {
    document.addEventListener(name, (dropping) => {
      dropping.preventDefault();
      document.body.classList.toggle('dropping', name === 'dragover');
      if (name === 'drop') take([...dropping.dataTransfer.files]);
    });
  }
})();
