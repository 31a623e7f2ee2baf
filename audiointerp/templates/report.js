
"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const PARTS = {
  original: "Original",
  in: "Kept by the mask",
  out: "The rest",
};
const STYLES = { hide: "hide the rest", tint: "colour what is kept" };
const TINT = [64, 255, 226];
const FEW_CLASSES = 8;

const shown = { scene: page.scenes[0], method: null, mask: null, place: null, style: "hide" };
const sorting = { column: null, descending: true };
let allClasses = false;

const byId = (id) => document.getElementById(id);

/** Make an element. Children are elements or text; text is never read as HTML. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const unique = (values) => [...new Set(values)];
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const seconds = (time) => time.toFixed(1);
const method = () => shown.scene.methods[shown.method];
const row = () => method().tables[shown.place][shown.mask];

/* ---------- choices ---------- */

/** Fill a select; what it offers changes only when it has to, so that the focus stays. */
function offer(select, groups, chosen) {
  const offered = JSON.stringify(groups);
  if (select.dataset.offered !== offered) {
    select.dataset.offered = offered;
    select.replaceChildren(...groups.map(([label, values]) => {
      const options = values.map((value) => make("option", { value }, value));
      return label ? make("optgroup", { label }, ...options) : options;
    }).flat());
  }
  select.value = chosen;
}

/** Fill a group of radio buttons; hidden where there is nothing to choose. */
function offerRadios(group, names, chosen, choose) {
  const offered = JSON.stringify(names);
  if (group.dataset.offered !== offered) {
    group.dataset.offered = offered;
    group.querySelector(".chips")?.remove();
    group.append(make("div", { className: "chips" }, ...Object.entries(names).map(([value, text]) => {
      const input = make("input", { type: "radio", name: group.id, value });
      input.addEventListener("change", () => choose(value));
      return make("label", {}, input, make("span", {}, text));
    })));
  }
  group.hidden = Object.keys(names).length < 2 && !Object.values(names)[0];
  for (const input of group.querySelectorAll("input")) input.checked = input.value === chosen;
}

const same = (names) => Object.fromEntries(names.map((name) => [name, name]));

function clipsOfModel() {
  return page.scenes.filter((scene) => scene.model === shown.scene.model).map((scene) => scene.clip);
}

function showScene(model, clip) {
  const ofModel = page.scenes.filter((scene) => scene.model === model);
  shown.scene = ofModel.find((scene) => scene.clip === clip) ?? ofModel[0];
  show();
}

/** Keep what was chosen where the clip has it, else take the first there is. */
function settle() {
  const methods = Object.keys(shown.scene.methods);
  if (!methods.includes(shown.method)) shown.method = methods[0];
  const { tables, masks, sounds } = method();
  if (!(shown.place in tables)) shown.place = Object.keys(tables)[0];
  if (!(shown.mask in masks)) {
    const heard = Object.keys(sounds);
    shown.mask = heard[heard.length - 1] ?? Object.keys(masks)[0];
  }
}

function show() {
  settle();
  const { scene } = shown;
  const clips = clipsOfModel();
  offer(byId("clip"), [["", clips]], scene.clip);
  byId("previous").disabled = clips[0] === scene.clip;
  byId("next").disabled = clips[clips.length - 1] === scene.clip;
  offerRadios(byId("models"), same(unique(page.scenes.map((other) => other.model))), scene.model,
    (model) => showScene(model, shown.scene.clip));
  offerRadios(byId("methods"), same(Object.keys(scene.methods)), shown.method,
    (name) => { shown.method = name; show(); });
  const places = Object.keys(method().tables);
  offerRadios(byId("places"), Object.fromEntries(places.map((place) => [place, page.places[place]])),
    shown.place, (place) => { shown.place = place; show(); });
  byId("places").hidden = places.length < 2 && places[0] === "features";
  const silent = Object.keys(method().masks).filter((mask) => !(mask in method().sounds));
  const groups = [["with sound", Object.keys(method().sounds)], ["without sound", silent]];
  offer(byId("mask"), groups.filter(([, masks]) => masks.length), shown.mask);
  offerRadios(byId("styles"), STYLES, shown.style,
    (style) => { shown.style = style; showPicture(); });
  showVerdict();
  showPicture();
  players.original.load(scene.sound);
  players.in.load(method().sounds[shown.mask]?.in);
  players.out.load(method().sounds[shown.mask]?.out);
  showCursor();
  showProbabilities();
  showMetrics();
}

function showVerdict() {
  const { scene } = shown;
  const index = scene.classes.indexOf(scene.label);
  byId("verdict").textContent =
    `${scene.clip}: heard as ${scene.label}, ${percent(scene.probabilities[index])}`;
  const other = method().explained === scene.label ? "" : ` for the class ${method().explained}`;
  byId("about-verdict").textContent =
    `${shown.method}${other}; the mask ${shown.mask} keeps ${percent(method().kept[shown.mask])}` +
    " of the spectrogram.";
}

/* ---------- the picture ---------- */

const pictures = new Map();

/** Decode a picture once. */
async function picture(source) {
  if (!pictures.has(source)) {
    const image = new Image();
    image.src = source;
    pictures.set(source, image.decode().then(() => image));
  }
  return pictures.get(source);
}

function drawAxis(axis, ticks, side) {
  axis.replaceChildren(...ticks.map(([text, place]) => {
    const tick = make("span", {}, text);
    tick.style[side] = `${100 * place}%`;
    return tick;
  }));
}

/** Draw the cells, and the mask over them: a share of 1 is coloured or left, 0 left or hidden. */
async function showPicture() {
  const { scene, style } = shown;
  const wanted = [scene.spectrogram, method().masks[shown.mask]];
  byId("opacity-value").textContent = `${byId("opacity").value} %`;
  const [level, mask] = await Promise.all(wanted.map(picture));
  if (wanted[0] !== shown.scene.spectrogram || wanted[1] !== method().masks[shown.mask]) return;
  const [below, above] = ["spectrogram", "overlay"].map((id) => {
    const canvas = byId(id);
    [canvas.width, canvas.height] = [level.naturalWidth, level.naturalHeight];
    return canvas.getContext("2d", { willReadFrequently: true });
  });
  below.drawImage(level, 0, 0);
  above.drawImage(mask, 0, 0);
  const cells = above.getImageData(0, 0, level.naturalWidth, level.naturalHeight);
  const opacity = byId("opacity").value / 100;
  const colour = style === "tint" ? TINT : [0, 0, 0];
  for (let at = 0; at < cells.data.length; at += 4) {
    const kept = cells.data[at];
    cells.data.set(colour, at);
    cells.data[at + 3] = Math.round(opacity * (style === "tint" ? kept : 255 - kept));
  }
  above.putImageData(cells, 0, 0);
  byId("spectrogram").setAttribute("aria-label",
    `Spectrogram of ${scene.clip}, ${seconds(scene.duration)} s, with the mask ${shown.mask} of ${shown.method}`);
  drawAxis(byId("x-axis"), scene.times, "left");
  drawAxis(byId("y-axis"), scene.frequencies, "bottom");
  fitPicture();
}

/** Show cells as blocks where they are larger than pixels; shrunk, blocks would drop some. */
function fitPicture() {
  for (const id of ["spectrogram", "overlay"]) {
    const canvas = byId(id);
    const pixels = canvas.clientWidth * window.devicePixelRatio;
    canvas.classList.toggle("blocks", pixels >= canvas.width);
  }
}

/** Where a moment is on the picture, as a share of its width: frames are centred on their times. */
const placeOf = (time) => (time / shown.scene.step + 0.5) / shown.scene.frames;
const timeAt = (place) => (place * shown.scene.frames - 0.5) * shown.scene.step;

function showCursor() {
  byId("cursor").style.left = `${100 * Math.min(1, placeOf(active.time()))}%`;
}

/* ---------- players ---------- */

class Player {
  constructor(part) {
    this.part = part;
    this.audio = make("audio", { preload: "auto" });
    this.button = make("button", { type: "button" });
    this.name = make("span", { className: "name" }, PARTS[part]);
    this.clock = make("span", { className: "time" });
    this.slider = make("input", { type: "range", min: 0, step: 0.01, value: 0 });
    this.note = make("p", { className: "quiet" });
    this.element = make("div", { className: `player ${part}` },
      this.button, this.name, this.clock, this.slider, this.note, this.audio);
    this.slider.setAttribute("aria-label", `Position in: ${PARTS[part]}`);
    this.button.addEventListener("click", () => this.toggle());
    this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
    this.element.addEventListener("keydown", (event) => this.key(event));
    for (const event of ["play", "pause", "ended", "timeupdate", "loadedmetadata", "seeked"]) {
      this.audio.addEventListener(event, () => this.show());
    }
    this.audio.addEventListener("play", () => requestAnimationFrame(() => this.follow()));
    this.audio.addEventListener("error", () => { this.note.textContent = "this browser cannot play it"; });
  }

  /** Take another sound; one that is playing goes on at the same moment. */
  load(sound) {
    if (sound?.source === this.source) return;
    const [playing, time] = [this.playing(), this.time()];
    this.source = sound?.source;
    this.audio.pause();
    this.element.classList.toggle("silent", !sound);
    this.button.disabled = !sound;
    this.note.hidden = Boolean(sound) && !sound.turned_down;
    this.note.textContent = sound
      ? `turned down by ${sound.turned_down.toFixed(1)} dB to stay within full scale`
      : `no sound was saved for this mask; there is for ${Object.keys(method().sounds).join(", ") || "none"}`;
    if (sound) {
      this.audio.src = sound.source;
      this.audio.currentTime = Math.min(time, shown.scene.duration);
      if (playing) this.play();
    } else {
      this.audio.removeAttribute("src");
    }
    this.show();
  }

  time() { return this.source ? this.audio.currentTime : 0; }
  playing() { return Boolean(this.source) && !this.audio.paused && !this.audio.ended; }

  async play() {
    active = this;
    try {
      await this.audio.play();
    } catch (error) {
      if (error.name !== "AbortError") this.note.textContent = error.message;
      this.note.hidden = error.name === "AbortError";
    }
  }

  /** Play or pause; another player that runs hands over at its moment. */
  toggle() {
    if (!this.source) return;
    if (this.playing()) {
      this.audio.pause();
      return;
    }
    const other = Object.values(players).find((player) => player.playing());
    if (other) {
      other.audio.pause();
      this.audio.currentTime = other.time();
    }
    this.play();
  }

  seek(time) {
    if (!this.source) return;
    active = this;
    this.audio.currentTime = Math.min(Math.max(time, 0), shown.scene.duration);
    this.show();
  }

  key(event) {
    const step = { ArrowLeft: -0.25, ArrowRight: 0.25, ArrowDown: -0.25, ArrowUp: 0.25 }[event.key];
    if (step) this.seek(this.time() + step);
    else if (event.key === "Home") this.seek(0);
    else if (event.key === " " && event.target === this.slider) this.toggle();
    else return;
    event.preventDefault();
  }

  follow() {
    this.show();
    if (this.playing()) requestAnimationFrame(() => this.follow());
  }

  show() {
    const { duration } = shown.scene;
    this.button.textContent = this.playing() ? "❚❚" : "▶";
    this.button.setAttribute("aria-label", `${this.playing() ? "Pause" : "Play"}: ${PARTS[this.part]}`);
    this.slider.max = duration;
    this.slider.value = this.time();
    this.slider.setAttribute("aria-valuetext", `${seconds(this.time())} of ${seconds(duration)} seconds`);
    this.clock.textContent = `${seconds(this.time())} / ${seconds(duration)} s`;
    if (active === this) showCursor();
  }
}

const players = {};
for (const part of Object.keys(PARTS)) players[part] = new Player(part);
let active = players.original;

/* ---------- numbers ---------- */

function showProbabilities() {
  const { classes, probabilities } = shown.scene;
  const after = row();
  const order = classes.map((_, index) => index).sort((a, b) => probabilities[b] - probabilities[a]);
  const highest = (index) => Math.max(probabilities[index], after.in[index], after.out[index]);
  const few = [...order].sort((a, b) => highest(b) - highest(a)).slice(0, FEW_CLASSES);
  const listed = order.filter((index) => allClasses || few.includes(index));
  byId("probabilities").tBodies[0].replaceChildren(...listed.map((index) => {
    const name = make("th", { scope: "row" }, classes[index]);
    const cells = Object.entries({ original: probabilities, in: after.in, out: after.out });
    return make("tr", { className: classes[index] === method().explained ? "chosen" : "" }, name,
      ...cells.map(([part, values]) => {
        const filled = make("i");
        filled.style.width = `${100 * values[index]}%`;
        const bar = make("span", { className: `bar ${part}` }, filled);
        return make("td", { title: String(values[index]) }, values[index].toFixed(3), bar);
      }));
  }));
  byId("about-probabilities").textContent =
    `Of the whole clip, of what ${shown.mask} keeps and of the rest, measured on ${page.places[shown.place]}.` +
    ` In colour: the explained class.`;
  byId("more").hidden = classes.length <= FEW_CLASSES;
  byId("more").textContent = allClasses ? "fewer classes" : `all ${classes.length} classes`;
}

const COLUMNS = [
  { name: "method, mask", text: true },
  { name: "kept", about: "Share of the spectrogram that the mask keeps", digits: 3 },
  ...page.metrics.map((metric, index) => ({ ...metric, index })),
  { name: "p in", about: "Probability of the explained class, of what is kept", digits: 3 },
  { name: "p out", about: "Probability of the explained class, of the rest", digits: 3 },
];

function metricRows() {
  const { scene } = shown;
  const methods = byId("all-methods").checked ? Object.keys(scene.methods) : [shown.method];
  return methods.flatMap((name) => {
    const { tables, masks, kept, sounds, explained } = scene.methods[name];
    const table = tables[shown.place] ?? {};
    const target = scene.classes.indexOf(explained);
    return Object.keys(masks)
      .filter((mask) => mask in table)
      .filter((mask) => byId("all-masks").checked || mask in sounds || mask === shown.mask)
      .map((mask) => ({
        name, mask,
        values: [`${name} ${mask}`, kept[mask], ...table[mask].metrics,
          table[mask].in[target], table[mask].out[target]],
      }));
  });
}

function showMetrics() {
  const rows = metricRows();
  const { column, descending } = sorting;
  if (column !== null) {
    const sign = descending ? -1 : 1;
    const compare = COLUMNS[column].text ? (a, b) => a.localeCompare(b) : (a, b) => a - b;
    rows.sort((a, b) => sign * compare(a.values[column], b.values[column]));
  }
  byId("metrics").querySelectorAll("thead th").forEach((head, index) => {
    const direction = descending ? "descending" : "ascending";
    head.setAttribute("aria-sort", index === column ? direction : "none");
    head.querySelector("span").textContent = index === column ? (descending ? " ▼" : " ▲") : "";
  });
  byId("metrics").tBodies[0].replaceChildren(...rows.map(({ name, mask, values }) => {
    const chosen = name === shown.method && mask === shown.mask;
    const button = make("button", { type: "button" }, `${name} · ${mask}`);
    const line = make("tr", {}, make("th", { scope: "row" }, button),
      ...values.slice(1).map((value, index) =>
        make("td", { title: String(value) }, value.toFixed(COLUMNS[index + 1].digits))));
    if (chosen) line.setAttribute("aria-current", "true");
    line.addEventListener("click", () => {
      const focused = document.activeElement === button;
      Object.assign(shown, { method: name, mask });
      show();
      if (focused) byId("metrics").querySelector("tr[aria-current] button")?.focus();
    });
    return line;
  }));
}

function makeHeadings() {
  const arrow = { higher: " ↑", lower: " ↓" };
  byId("metrics").tHead.append(make("tr", {}, ...COLUMNS.map((column, index) => {
    const better = column.better ? `; ${column.better} is better` : "";
    const title = column.about ? column.about + better : "";
    const button = make("button", { type: "button", title }, column.name + (arrow[column.better] ?? ""),
      make("span", { ariaHidden: "true" }));
    button.addEventListener("click", () => {
      sorting.descending = sorting.column === index ? !sorting.descending : !column.text;
      sorting.column = index;
      showMetrics();
    });
    return make("th", { scope: "col" }, button);
  })));
  byId("glossary").append(...page.metrics.flatMap(({ name, about, better }) => [
    make("dt", {}, name), make("dd", {}, `${about}${better ? `; ${better} is better` : ""}.`),
  ]));
}

/* ---------- start ---------- */

byId("players").append(...Object.values(players).map((player) => player.element));
byId("footer").textContent = page.footer;
makeHeadings();
byId("choices").addEventListener("submit", (event) => event.preventDefault());
byId("clip").addEventListener("change", (event) => showScene(shown.scene.model, event.target.value));
for (const [id, step] of [["previous", -1], ["next", 1]]) {
  byId(id).addEventListener("click", () => {
    const clips = clipsOfModel();
    showScene(shown.scene.model, clips[clips.indexOf(shown.scene.clip) + step]);
  });
}
byId("mask").addEventListener("change", (event) => { shown.mask = event.target.value; show(); });
byId("opacity").addEventListener("input", showPicture);
byId("more").addEventListener("click", () => { allClasses = !allClasses; showProbabilities(); });
for (const id of ["all-methods", "all-masks"]) byId(id).addEventListener("change", showMetrics);
byId("cells").addEventListener("click", (event) => {
  const box = byId("cells").getBoundingClientRect();
  active.seek(timeAt((event.clientX - box.left) / box.width));
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT") return;
  const player = Object.values(players)[["1", "2", "3"].indexOf(event.key)];
  if (player) player.toggle();
});
window.addEventListener("resize", fitPicture);
show();
