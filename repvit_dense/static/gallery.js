/* Filter, sort and enlarge the pictures of a page that is opened as a file; without this script they are all shown. */
'use strict';

(() => {
  const {make, partsOf} = dense;
  const grid = document.querySelector('.grid');
  const tools = document.querySelector('.tools');
  if (!grid) return;
  const {names, palette, entries} = JSON.parse(document.querySelector('#data')?.textContent ?? '{"names": [], "entries": []}');
  const cards = [...grid.children].map((figure, index) => {
    const parts = partsOf(entries[index] ?? {});
    const scores = parts.flatMap((part) => part.score ?? []);
    const certainty = scores.length ? scores.reduce((a, b) => a + b) / scores.length : 1;
    const caption = figure.querySelector('figcaption').textContent;
    return {figure, index, entry: entries[index] ?? {}, parts, certainty, caption};
  });
  const orders = [
    ['In order', (a, b) => a.index - b.index, true],
    ['Worst first', (a, b) => (a.entry.quality ?? Infinity) - (b.entry.quality ?? Infinity) || a.index - b.index,
      cards.some((card) => card.entry.quality !== undefined)],
    ['Least certain first', (a, b) => a.certainty - b.certainty || a.index - b.index, cards.some((card) => card.certainty < 1)],
    ['Most objects first', (a, b) => b.parts.length - a.parts.length || a.index - b.index, cards.some((card) => card.parts.length)],
    ['By name', (a, b) => a.caption.localeCompare(b.caption, undefined, {numeric: true}), true],
  ].filter(([, , isPossible]) => isPossible);

  const controls = make('div', {className: 'choice'});
  const count = make('p', {className: 'status'});
  count.setAttribute('aria-live', 'polite');
  const order = make('select', {}, ...orders.map(([text]) => make('option', {textContent: text})));
  order.onchange = () => {
    cards.sort(orders[order.selectedIndex][1]);
    grid.append(...cards.map((card) => card.figure));
  };
  controls.hidden = !cards.some((card) => card.parts.length);
  const choice = new dense.Choice(controls, dense.coloursOf(names, palette), null, () => {
    filter();
    viewer.draw();
  });
  choice.offer(entries);
  const find = make('input', {type: 'search', oninput: () => filter()});
  tools.append(make('div', {className: 'row'}, make('label', {}, 'Order ', order), make('label', {}, 'Name contains ', find), count), controls);
  tools.hidden = false;

  const dialog = make('dialog', {className: 'large'});
  const canvas = make('canvas'), title = make('p', {className: 'status'});
  const viewer = new dense.Viewer(canvas, choice, step);
  const button = (text, onclick) => make('button', {type: 'button', textContent: text, onclick});
  const bar = [button('Previous', () => step(-1)), button('Next', () => step(1)), ...dense.zoomButtons(viewer)];
  dialog.append(make('div', {className: 'row'}, ...bar, button('Close', () => dialog.close()), title), canvas);
  dialog.onclose = () => tools.append(controls);
  document.body.append(dialog);
  let current = null, isPending = false;

  function filter() {
    if (isPending) return;
    isPending = true;
    requestAnimationFrame(() => {
      isPending = false;
      const isOpen = choice.isOpen(), text = find.value.toLowerCase();
      let shown = 0;
      for (const {figure, parts, caption} of cards) {
        const isShown = (isOpen || parts.some((part) => choice.shows(part))) && caption.toLowerCase().includes(text);
        figure.hidden = !isShown;
        shown += isShown;
      }
      count.textContent = `${shown} of ${cards.length} pictures`;
    });
  }

  /** Show a card enlarged: the prediction over its image if that can be loaded, else the drawn picture. */
  function enlarge(card) {
    current = card;
    title.textContent = card.caption;
    if (!dialog.open) {
      if (!controls.hidden) canvas.before(controls); // one set of controls, here and above the pictures
      dialog.showModal();
    }
    canvas.focus();
    const image = new Image();
    const drawn = card.figure.querySelector('img').src, original = card.figure.dataset.image;
    const boxes = card.entry.objects;
    image.onload = () => {
      if (card !== current) return;
      const isOriginal = boxes && image.src !== drawn;
      viewer.show(image, image.naturalWidth, image.naturalHeight, isOriginal ? card.entry : null, card.caption);
    };
    image.onerror = () => {
      if (image.src !== drawn) image.src = drawn;
    };
    image.src = (boxes && original) || drawn;
  }

  function step(direction) {
    const shown = cards.filter((card) => !card.figure.hidden);
    const next = shown[shown.indexOf(current) + direction];
    if (next) enlarge(next);
  }

  grid.addEventListener('click', (event) => {
    const figure = event.target.closest('a') && event.target.closest('figure');
    if (!figure || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    enlarge(cards.find((card) => card.figure === figure));
  });
  filter();
})();
