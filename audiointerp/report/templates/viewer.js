/* ---------- one clip to look at and listen to ---------- */

const PARTS = {
  original: "Original",
  in: "Kept by the mask",
  out: "The rest",
};
const STYLES = { hide: "hide the rest", tint: "colour what is kept" };
const TINT = [64, 255, 226];
const FEW_CLASSES = 8;
const FEW_LABELS = 4;

/** What the page shows. A page's own script sets it and defines `show`, which calls showViewer,
 *  and `showClip`, given the name of a clip that is offered. */
const shown = { scene: null, method: null, mask: null, place: null, style: "hide" };
let allClasses = false;

const method = () => shown.scene.methods[shown.method];
/** Class probabilities after masking; a page need not have them for every mask, or at all. */
const after = () => method().tables[shown.place]?.[shown.mask];

function showViewer() {
  const { scene } = shown;
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
}

/** Keep the mask that was chosen where the clip has it, else take the last that is heard. */
function settleMask() {
  const { masks, sounds } = method();
  if (shown.mask in masks) return;
  const heard = Object.keys(sounds);
  shown.mask = heard[heard.length - 1] ?? Object.keys(masks)[0];
}

/** Offer the clips of scenes, grouped by why they were chosen, and the one before and after. */
function offerClips(scenes) {
  const { clip } = shown.scene;
  const clips = scenes.map((scene) => scene.clip);
  const option = (scene) => [scene.clip, scene.truth ? `${scene.clip} · ${scene.truth}` : scene.clip];
  offer(byId("clip"), unique(scenes.map((scene) => scene.why)).map((why) =>
    [why, scenes.filter((scene) => scene.why === why).map(option)]), clip);
  byId("previous").disabled = clips[0] === clip;
  byId("next").disabled = clips[clips.length - 1] === clip;
}

/** Say what the model decides for: a class, the first of several labels, or none. */
function verdictOf({ label, labels = [label], classes, probabilities }) {
  const chance = (name, between) =>
    (probabilities ? `${between}${percent(probabilities[classes.indexOf(name)])}` : "");
  if (!labels.length) return `no label is decided for; the most probable is ${label}${chance(label, ", ")}`;
  if (labels.length === 1) return `heard as ${labels[0]}${chance(labels[0], ", ")}`;
  const named = labels.slice(0, FEW_LABELS).map((name) => name + chance(name, " ")).join(", ");
  const more = labels.length - FEW_LABELS;
  return `heard as ${named}${more > 0 ? ` and ${more} more` : ""}`;
}

function showVerdict() {
  const { scene } = shown;
  const truth = scene.truth && scene.truth !== scene.label ? `; it is ${scene.truth}` : "";
  byId("verdict").textContent = `${scene.clip}: ${verdictOf(scene)}${truth}`;
  const other = method().explained === scene.label ? "" : ` for the class ${method().explained}`;
  byId("about-verdict").textContent =
    `${named(shown.method)}${other}; the mask ${shown.mask} keeps ${percent(method().kept[shown.mask])}` +
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
    `Spectrogram of ${scene.clip}, ${seconds(scene.duration)} s, with the mask ${shown.mask} of ${named(shown.method)}`);
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
    this.slowed = sound?.slowed ?? 1;
    this.audio.pause();
    this.element.classList.toggle("silent", !sound);
    this.button.disabled = !sound;
    const remarks = [];
    if (sound?.slowed > 1) remarks.push(`played ${sound.slowed} times slower: the frequencies heard are those of the picture divided by ${sound.slowed}`);
    if (sound?.turned_down >= 0.05) remarks.push(`turned down by ${sound.turned_down.toFixed(1)} dB to stay within full scale`);
    this.note.hidden = Boolean(sound) && !remarks.length;
    this.note.textContent = sound
      ? remarks.join("; ")
      : `no sound of this mask is in the page; there is of ${Object.keys(method().sounds).join(", ") || "none"}`;
    if (sound) {
      this.audio.src = sound.source;
      this.audio.currentTime = Math.min(time, shown.scene.duration) * this.slowed;
      if (playing) this.play();
    } else {
      this.audio.removeAttribute("src");
    }
    this.show();
  }

  /** The moment of the clip, whose seconds a slowed sound takes several times as long for. */
  time() { return this.source ? this.audio.currentTime / this.slowed : 0; }
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
      this.audio.currentTime = other.time() * this.slowed;
    }
    this.play();
  }

  seek(time) {
    if (!this.source) return;
    active = this;
    this.audio.currentTime = Math.min(Math.max(time, 0), shown.scene.duration) * this.slowed;
    this.show();
  }

  key(event) {
    const step = { ArrowLeft: -0.25, ArrowRight: 0.25, ArrowDown: -0.25, ArrowUp: 0.25 }[event.key];
    if (step) this.seek(this.time() + step / this.slowed);
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
    if (!shown.scene) return;
    const { duration } = shown.scene;
    this.button.textContent = this.playing() ? "❚❚" : "▶";
    this.button.setAttribute("aria-label", `${this.playing() ? "Pause" : "Play"}: ${PARTS[this.part]}`);
    this.slider.max = duration;
    this.slider.step = 0.01 / (this.slowed || 1);
    this.slider.value = this.time();
    this.slider.setAttribute("aria-valuetext", `${seconds(this.time())} of ${seconds(duration)} seconds`);
    this.clock.textContent = `${seconds(this.time())} / ${seconds(duration)} s`;
    if (active === this) showCursor();
  }
}

const players = {};
for (const part of Object.keys(PARTS)) players[part] = new Player(part);
let active = players.original;

/* ---------- class probabilities ---------- */

function showProbabilities() {
  const { classes, probabilities } = shown.scene;
  byId("chances").hidden = !probabilities;
  byId("viewer").classList.toggle("wide", !probabilities);
  if (!probabilities) return;
  const columns = { original: probabilities, in: after()?.in, out: after()?.out };
  const order = classes.map((_, index) => index).sort((a, b) => probabilities[b] - probabilities[a]);
  const highest = (index) => Math.max(...Object.values(columns).map((values) => values?.[index] ?? 0));
  const few = [...order].sort((a, b) => highest(b) - highest(a)).slice(0, FEW_CLASSES);
  const listed = order.filter((index) => allClasses || few.includes(index));
  byId("probabilities").tBodies[0].replaceChildren(...listed.map((index) => {
    const name = make("th", { scope: "row" }, classes[index]);
    const cells = Object.entries(columns).map(([part, values]) => {
      if (!values) return make("td", {}, "–");
      const filled = make("i");
      filled.style.width = `${100 * values[index]}%`;
      const bar = make("span", { className: `bar ${part}` }, filled);
      return make("td", { title: String(values[index]) }, values[index].toFixed(3), bar);
    });
    return make("tr", { className: classes[index] === method().explained ? "chosen" : "" }, name, ...cells);
  }));
  byId("about-probabilities").textContent =
    `Of the whole clip, of what ${shown.mask} keeps and of the rest, measured on ${page.places[shown.place]}.` +
    ` In colour: the explained class.`;
  byId("more").hidden = classes.length <= FEW_CLASSES;
  byId("more").textContent = allClasses ? "fewer classes" : `all ${classes.length} classes`;
}

/* ---------- what the viewer listens to ---------- */

byId("players").append(...Object.values(players).map((player) => player.element));
for (const [id, step] of [["previous", -1], ["next", 1]]) {
  byId(id).addEventListener("click", () => {
    const select = byId("clip");
    showClip(select.options[select.selectedIndex + step].value);
  });
}
byId("clip").addEventListener("change", (event) => showClip(event.target.value));
byId("mask").addEventListener("change", (event) => { shown.mask = event.target.value; show(); });
byId("opacity").addEventListener("input", showPicture);
byId("more").addEventListener("click", () => { allClasses = !allClasses; showProbabilities(); });
byId("cells").addEventListener("click", (event) => {
  const box = byId("cells").getBoundingClientRect();
  active.seek(timeAt((event.clientX - box.left) / box.width));
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT") return;
  const player = shown.scene && Object.values(players)[["1", "2", "3"].indexOf(event.key)];
  if (player) player.toggle();
});
window.addEventListener("resize", fitPicture);

