/* Show predictions over their images: boxes, masks and segments by class and score, zoom and pan.
   The page of `serve` and the pages of pictures, which are opened as files, share this script. */
'use strict';

const dense = (() => {
  const OPACITY = 0.45;
  const LARGEST_MASK = 1600; // pixels on a side; masks of larger images are drawn coarser
  const MAX_ZOOM = 60; // screen pixels per pixel of the image

  /** Create an element with properties and children. */
  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  /** Return the RGB colour of every class by name: of the palette, or those of the drawn pictures. */
  function coloursOf(names, palette) {
    const colours = new Map();
    names.forEach((name, i) => {
      const hue = (i * 0.618034) % 1, value = [1, 0.8, 0.6][i % 3];
      const level = (n, k = (n + 6 * hue) % 6) => value * (1 - 0.75 * Math.max(0, Math.min(k, 4 - k, 1)));
      if (!colours.has(name)) colours.set(name, palette ? palette[i] : [5, 3, 1].map((n) => Math.round(255 * level(n))));
    });
    return colours;
  }

  const css = (colour) => `rgb(${colour.join(' ')})`;

  /** Return objects and segments of a result in one list. */
  const partsOf = (result) => [...(result.objects ?? []), ...(result.segments ?? [])];

  /** Return "3 cat, 1 dog" for a list of objects, "sky 60%, sea 40%" for segments. */
  function summarize(parts) {
    const counts = new Map();
    for (const {label, share} of parts) counts.set(label, (counts.get(label) ?? 0) + (share ?? 1));
    const listed = [...counts].sort((a, b) => b[1] - a[1]);
    const isShare = parts.some((part) => part.share !== undefined);
    const write = ([label, count]) => (isShare ? `${label} ${Math.round(100 * count)}%` : `${count} ${label}`);
    const text = listed.slice(0, 8).map(write).join(', ');
    return (text || 'nothing') + (listed.length > 8 ? ', ...' : '');
  }

  /** Return the run lengths of a mask: COCO's text holds 5 bits a character, the third run on as differences. */
  function runsOf(counts) {
    if (Array.isArray(counts)) return counts;
    const runs = [];
    for (let at = 0; at < counts.length;) {
      let value = 0, shift = 0, bits;
      do {
        bits = counts.charCodeAt(at++) - 48;
        value |= (bits & 31) << shift;
        shift += 5;
      } while (bits & 32 && at < counts.length);
      if (bits & 16 && shift < 32) value |= -1 << shift;
      runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
    }
    return runs;
  }

  /** Return a mask in COCO's run lengths (column by column) as a canvas with its place in the image; null if empty. */
  function drawMask(mask, colour) {
    const [height, width] = mask.size;
    const spans = []; // first and last pixel of each run inside the mask
    let position = 0, left = width, right = -1, top = height, bottom = -1;
    runsOf(mask.counts).forEach((run, i) => {
      const first = position, last = position + run - 1;
      position += run;
      if (i % 2 === 0 || run <= 0 || position > height * width) return;
      spans.push([first, last]);
      const columns = [Math.floor(first / height), Math.floor(last / height)];
      left = Math.min(left, columns[0]);
      right = Math.max(right, columns[1]);
      top = Math.min(top, columns[0] === columns[1] ? first % height : 0);
      bottom = Math.max(bottom, columns[0] === columns[1] ? last % height : height - 1);
    });
    if (!spans.length) return null;
    const step = Math.max(1, Math.ceil(Math.max(width, height) / LARGEST_MASK));
    const columns = Math.ceil((right - left + 1) / step), rows = Math.ceil((bottom - top + 1) / step);
    const pixels = new ImageData(columns, rows), values = new Uint32Array(pixels.data.buffer);
    const [red, green, blue] = colour;
    const value = ((Math.round(255 * OPACITY) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    for (const [first, last] of spans) {
      for (let x = Math.floor(first / height); x <= Math.floor(last / height); x++) {
        if ((x - left) % step) continue;
        const from = Math.max(first - x * height, 0) - top, to = Math.min(last - x * height, height - 1) - top;
        for (let y = Math.ceil(from / step); y * step <= to; y++) values[y * columns + (x - left) / step] = value;
      }
    }
    const canvas = make('canvas', {width: columns, height: rows});
    canvas.getContext('2d').putImageData(pixels, 0, 0);
    return {canvas, left, top, width: columns * step, height: rows * step};
  }

  /** The score and the classes that are shown, with their controls. */
  class Choice {
    /**
     * @param element receives the controls
     * @param colours by class name
     * @param score the first threshold; null for the lowest score of the results
     * @param changed is called after each change
     */
    constructor(element, colours, score, changed) {
      Object.assign(this, {colours, score: score ?? 0, changed, hidden: new Set(), parts: [], lowest: score === null});
      this.slider = make('input', {type: 'range', min: 0, max: 1, step: 0.01, value: this.score});
      this.output = make('output');
      this.slider.oninput = () => this.choose(Number(this.slider.value));
      this.sliderLabel = make('label', {className: 'score'}, 'Score at least ', this.output, this.slider);
      this.classes = make('div', {className: 'classes'});
      const all = (text, hide) => {
        const button = make('button', {type: 'button', textContent: text});
        button.onclick = () => {
          this.hidden = new Set(hide ? this.parts.map((part) => part.label) : []);
          this.list();
          this.changed();
        };
        return button;
      };
      const legend = make('legend', {textContent: 'Classes'});
      this.fieldset = make('fieldset', {}, legend, all('All', false), all('None', true), this.classes);
      element.replaceChildren(this.sliderLabel, this.fieldset);
      this.list();
    }

    /** Take the results whose classes and scores can be chosen. */
    offer(results) {
      this.parts = results.flatMap(partsOf);
      const scores = this.parts.flatMap((part) => part.score ?? []);
      this.sliderLabel.hidden = !scores.length;
      const least = scores.reduce((a, b) => Math.min(a, b), 1);
      this.slider.min = Math.floor(100 * (scores.length ? least : 0)) / 100;
      if (this.lowest) this.slider.value = this.score = Number(this.slider.min);
      this.list();
    }

    choose(score) {
      this.score = score;
      this.list();
      this.changed();
    }

    shows(part) {
      return !this.hidden.has(part.label) && (part.score ?? 1) >= this.score;
    }

    /** Return whether everything is shown. */
    isOpen() {
      return !this.hidden.size && this.score <= Number(this.slider.min);
    }

    /** Update the number of objects of each class. */
    list() {
      this.output.textContent = this.score.toFixed(2);
      const counts = new Map(this.parts.map((part) => [part.label, 0]));
      for (const part of this.parts) {
        if ((part.score ?? 1) >= this.score) counts.set(part.label, counts.get(part.label) + 1);
      }
      const names = [...counts.keys()].sort();
      this.fieldset.hidden = !names.length;
      if (names.join('\n') !== this.listed) {
        this.listed = names.join('\n');
        this.classes.replaceChildren(...names.map((name) => this.toggle(name)));
      }
      for (const label of this.classes.children) {
        const box = label.querySelector('input');
        box.checked = !this.hidden.has(box.value);
        label.querySelector('.count').textContent = counts.get(box.value);
      }
    }

    toggle(name) {
      const box = make('input', {type: 'checkbox', value: name});
      box.onchange = () => {
        this.hidden[box.checked ? 'delete' : 'add'](name);
        this.changed();
      };
      const swatch = make('span', {className: 'swatch'});
      swatch.style.background = css(this.colours.get(name) ?? [128, 128, 128]);
      return make('label', {}, box, swatch, ` ${name} `, make('span', {className: 'count'}));
    }
  }

  /** A canvas that shows an image and its result, moved and enlarged with mouse, fingers or keys. */
  class Viewer {
    /**
     * @param canvas it can receive the focus
     * @param choice decides which objects are drawn; null for none
     * @param step is called with -1 or 1 for the keys that lead to another image
     */
    constructor(canvas, choice, step = () => {}) {
      Object.assign(this, {canvas, choice, step, pointers: new Map(), masks: new WeakMap()});
      canvas.tabIndex = 0;
      canvas.setAttribute('role', 'img');
      canvas.onwheel = (event) => {
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
      };
      canvas.onpointerdown = (event) => {
        canvas.setPointerCapture(event.pointerId);
        this.pointers.set(event.pointerId, event);
      };
      canvas.onpointermove = (event) => this.drag(event);
      canvas.onpointerup = canvas.onpointercancel = (event) => this.pointers.delete(event.pointerId);
      canvas.ondblclick = () => this.fit();
      canvas.onkeydown = (event) => this.press(event);
      new ResizeObserver(() => (this.isFitted ? this.fit() : this.draw())).observe(canvas);
    }

    /** Show an image, or anything else that a canvas can draw, with a result in pixels of `width` x `height`. */
    show(image, width, height, result, name = '') {
      const stays = this.width === width && this.height === height && !this.isFitted;
      Object.assign(this, {image, width, height, result, name});
      if (stays) this.draw(); // the same place of the next frame or image
      else this.fit();
    }

    fit() {
      const {clientWidth, clientHeight} = this.canvas;
      this.isFitted = true;
      this.scale = Math.min(clientWidth / this.width, clientHeight / this.height) || 1;
      this.x = (clientWidth - this.width * this.scale) / 2;
      this.y = (clientHeight - this.height * this.scale) / 2;
      this.draw();
    }

    zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
      const least = Math.min(this.canvas.clientWidth / this.width, this.canvas.clientHeight / this.height) / 2;
      const scale = Math.min(Math.max(this.scale * factor, least), Math.max(MAX_ZOOM, least));
      this.move(x - ((x - this.x) * scale) / this.scale - this.x, y - ((y - this.y) * scale) / this.scale - this.y, scale);
    }

    move(x, y, scale = this.scale) {
      Object.assign(this, {x: this.x + x, y: this.y + y, scale, isFitted: false});
      this.draw();
    }

    drag(event) {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      this.pointers.set(event.pointerId, event);
      const others = [...this.pointers.values()].filter((pointer) => pointer.pointerId !== event.pointerId);
      if (!others.length) return this.move(event.offsetX - before.offsetX, event.offsetY - before.offsetY);
      const distance = (a) => Math.hypot(a.offsetX - others[0].offsetX, a.offsetY - others[0].offsetY) || 1;
      this.zoom(distance(event) / distance(before), others[0].offsetX, others[0].offsetY);
    }

    press(event) {
      const arrows = {ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
      const [x, y] = arrows[event.key] ?? [0, 0];
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === '+' || event.key === '=') this.zoom(1.25);
      else if (event.key === '-') this.zoom(0.8);
      else if (event.key === '0') this.fit();
      else if (x && this.isFitted) this.step(-x);
      else if (x || y) this.move(40 * x, 40 * y);
      else return;
      event.preventDefault();
    }

    draw() {
      if (this.pending) return;
      this.pending = true;
      requestAnimationFrame(() => {
        this.pending = false;
        this.paint();
      });
    }

    paint() {
      const {canvas, scale} = this;
      const ratio = window.devicePixelRatio || 1;
      canvas.width = Math.round(canvas.clientWidth * ratio);
      canvas.height = Math.round(canvas.clientHeight * ratio);
      if (!this.image || !canvas.width) return;
      const context = canvas.getContext('2d');
      context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * this.x, ratio * this.y);
      context.imageSmoothingEnabled = scale * ratio < 3;
      context.drawImage(this.image, 0, 0, this.width, this.height);
      const parts = this.choice && this.result ? partsOf(this.result).filter((part) => this.choice.shows(part)) : [];
      parts.sort((a, b) => (a.score ?? 1) - (b.score ?? 1)); // the most certain on top
      for (const part of parts) {
        const mask = part.mask && this.mask(part);
        if (mask) context.drawImage(mask.canvas, mask.left, mask.top, mask.width, mask.height);
      }
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      for (const part of parts) if (part.box) this.outline(context, part);
      canvas.setAttribute('aria-label', this.result ? `${this.name}: ${summarize(parts.reverse())}` : this.name);
    }

    colour(part) {
      return this.choice.colours.get(part.label) ?? [128, 128, 128];
    }

    mask(part) {
      if (!this.masks.has(part)) this.masks.set(part, drawMask(part.mask, this.colour(part)));
      return this.masks.get(part);
    }

    outline(context, part) {
      const colour = this.colour(part);
      const [left, top, right, bottom] = part.box.map((side, i) => side * this.scale + (i % 2 ? this.y : this.x));
      context.lineWidth = 2;
      context.strokeStyle = context.fillStyle = css(colour);
      context.strokeRect(left, top, right - left, bottom - top);
      const text = part.score === undefined ? part.label : `${part.label} ${part.score.toFixed(2)}`;
      context.font = '12px system-ui, sans-serif';
      const width = context.measureText(text).width + 6;
      const x = Math.max(0, Math.min(left - 1, this.canvas.clientWidth - width)), y = Math.max(top - 16, 0);
      context.fillRect(x, y, width, 16);
      context.fillStyle = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140 ? '#fff' : '#000';
      context.fillText(text, x + 3, y + 12);
    }
  }

  /** Return buttons that enlarge, reduce and fit what a viewer shows. */
  function zoomButtons(viewer) {
    const acts = [['+', 'Zoom in', () => viewer.zoom(1.4)], ['\u2212', 'Zoom out', () => viewer.zoom(1 / 1.4)]];
    acts.push(['Fit', 'Fit the image into the view', () => viewer.fit()]);
    return acts.map(([text, title, onclick]) => {
      const button = make('button', {type: 'button', textContent: text, title, onclick});
      button.setAttribute('aria-label', title);
      return button;
    });
  }

  return {make, coloursOf, partsOf, summarize, drawMask, Choice, Viewer, zoomButtons};
})();
