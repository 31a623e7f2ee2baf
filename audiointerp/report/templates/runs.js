/* ---------- runs of an experiment ---------- */

const ANSWERS = {
  all: ["all", () => true],
  right: ["correctly classified", (correct) => correct],
  wrong: ["wrongly classified", (correct) => !correct],
};
const NAMES = ["model", "experiment", "method"];
/** Columns of means: every metric and, where it has no value for some clips, how many have one. */
const MEANS = page.metrics.flatMap(({ mean_digits: digits, partial, ...metric }, at) => [
  { ...metric, digits, at },
  ...(partial ? [{ name: "n", about: `How many the mean of ${metric.name} is over`, digits: 0, count: at }] : []),
]).concat(page.score ?? []);
const runsTable = new SortedTable("runs", { marks: true });
const masksTable = new SortedTable("masks", { marks: true });
const clipsTable = new SortedTable("clips");

let run = page.runs[0];
const wanted = { answer: "all", class: "", clip: null };

const label = (one) => unique(page.runs.map(({ model }) => model)).length > 1
  ? `${one.model} · ${named(one.method)} · ${one.experiment}` : `${named(one.method)} · ${one.experiment}`;

/** Take the run of a name, which keeps the other names where there is one that does. */
function choose(name, value) {
  const agrees = (other) => NAMES.filter((key) => other[key] === run[key]).length;
  const fitting = page.runs.filter((other) => other[name] === value);
  run = fitting.reduce((best, other) => (agrees(other) > agrees(best) ? other : best));
  show();
}

/** Return the true classes of a row. */
const labelsOf = (one, at) => one.labels?.[at] ?? [one.target[at]];

/** Return the positions of the first row of every clip. */
const firstsOf = (one) => [...new Map(one.clips.map((clip, at) => [clip, at]).reverse()).values()];

/** Return the positions of the rows that are asked for: of clips, or of explained classes of clips. */
function clipsOf(one) {
  const [, fits] = ANSWERS[wanted.answer];
  return one.clips.map((_, at) => at)
    .filter((at) => fits(one.correct[at]) && (!wanted.class || labelsOf(one, at).includes(wanted.class)));
}

/** Return what stands in the columns of means, over the clips that are asked for. */
function means(one, mask) {
  const rows = one.tables[shown.place]?.[mask];
  const clips = clipsOf(one);
  if (!rows || !clips.length) return MEANS.map(() => null);
  const known = page.metrics.map((_, column) =>
    clips.map((at) => rows[at][column]).filter((value) => value !== null));
  const mean = known.map((values) =>
    (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null));
  return MEANS.map(({ at, count }) => {
    if (at !== undefined) return mean[at];
    return count !== undefined ? known[count].length : score(mean, one.ranges);
  });
}

/** Return the score of means, of those metrics that have a range; null where one has no value. */
function score(mean, ranges) {
  const shares = mean.flatMap((value, column) => {
    if (!ranges[column]) return [];
    const [low, high] = ranges[column];
    const part = value === null ? NaN : (value - low) / (high - low);
    return [page.metrics[column].better === "higher" ? part : 1 - part];
  });
  const logs = shares.map((part) => Math.log(Math.min(1, Math.max(page.score.floor, part))));
  const value = Math.exp(logs.reduce((sum, log) => sum + log, 0) / logs.length);
  return Number.isNaN(value) ? null : value;
}

const scenesOf = (one) => page.scenes.filter((scene) => scene.group === one.group && one.method in scene.methods);

function showClip(clip) {
  wanted.clip = clip;
  show();
}

/** Keep what was chosen where the run has it, else take the first there is. */
function settle() {
  if (!(shown.place in run.tables)) [shown.place] = Object.keys(run.tables);
  if (!(shown.mask in run.tables[shown.place])) [shown.mask] = Object.keys(run.tables[shown.place]);
  if (!run.classes.includes(wanted.class)) wanted.class = "";
  const scenes = scenesOf(run);
  shown.method = run.method;
  shown.scene = scenes.find((scene) => scene.clip === wanted.clip) ?? scenes[0] ?? null;
}

function show() {
  settle();
  offerChoices();
  showRun();
  showRuns();
  showMasks();
  showListen();
  showClips();
}

function offerChoices() {
  const fitting = { model: page.runs, experiment: [], method: [] };
  fitting.experiment = page.runs.filter((other) => other.model === run.model);
  fitting.method = fitting.experiment.filter((other) => other.experiment === run.experiment);
  for (const name of NAMES) {
    const group = byId(`${name}s`);
    const names = unique(fitting[name].map((other) => other[name]));
    offerRadios(group, name === "method" ? namedMethods(names) : same(names), run[name],
      (value) => choose(name, value));
    group.hidden = unique(page.runs.map((other) => other[name])).length < 2;
  }
  const places = Object.keys(run.tables);
  offerRadios(byId("places"), Object.fromEntries(places.map((place) => [place, page.places[place]])),
    shown.place, (place) => { shown.place = place; show(); });
  byId("places").hidden = places.length < 2 && places[0] === "features";
  offerRadios(byId("answers"), Object.fromEntries(Object.entries(ANSWERS).map(([name, [text, fits]]) =>
    [name, `${text} (${run.correct.filter(fits).length})`])), wanted.answer,
    (answer) => { wanted.answer = answer; show(); });
  const right = (name) => {
    const ofClass = firstsOf(run).filter((at) => labelsOf(run, at).includes(name));
    return `${name}: ${ofClass.filter((at) => run.correct[at]).length} of ${ofClass.length} right`;
  };
  offer(byId("class"), [["", [["", "every class"], ...run.classes.map((name) => [name, right(name)])]]], wanted.class);
}

/** Say how many rows: of clips, or of explained classes of clips. */
const inWords = (one, count, which = "") => (one.explained
  ? `${count}${which} explained class${count === 1 ? "" : "es"}` : `${count}${which} clip${count === 1 ? "" : "s"}`);
const share = (part, whole) => `${(100 * part / whole).toFixed(2)} %`;

/** Return how many clips are classified correctly, and how many there are. */
function countRight(one) {
  const firsts = firstsOf(one);
  return [firsts.filter((at) => one.correct[at]).length, firsts.length];
}

function showRun() {
  const [right, count] = countRight(run);
  byId("run-title").textContent = label(run);
  byId("accuracy").replaceChildren(
    make("strong", {}, share(right, count)), ` classified correctly, ${right} of ${count} clips`);
  byId("warning").textContent = run.warning;
  byId("warning").hidden = !run.warning;
  byId("about-run").replaceChildren(...run.about.map(([name, text]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, text))));
}

/** Say which clips the means are over. */
function whichClips() {
  const count = clipsOf(run).length;
  const answer = wanted.answer === "all" ? "" : ` ${ANSWERS[wanted.answer][0]}`;
  const ofClass = wanted.class ? ` of the class ${wanted.class}` : "";
  return `${inWords(run, count, answer)}${ofClass}`;
}

function accuracy(one) {
  const [right, count] = countRight(one);
  return 100 * right / count;
}

function showRuns() {
  byId("runs-card").hidden = page.runs.length < 2;
  byId("about-runs").textContent =
    `Under the mask ${shown.mask}, measured on ${page.places[shown.place]}, means over the clips asked for ` +
    "(the accuracy is that of all). In bold: the best method of an experiment, references aside. A row shows its run.";
  const columns = [{ name: "run", text: true },
    { name: "accuracy, %", about: "Share of all clips that are classified correctly", digits: 2 },
    { name: page.runs.some((one) => one.explained) ? "explained" : "clips",
      about: "How many the means are over", digits: 0 }, ...MEANS];
  runsTable.show(columns, page.runs.map((other) => ({
    values: [label(other), accuracy(other), clipsOf(other).length, ...means(other, shown.mask)],
    group: other.group,
    reference: page.references.includes(other.method),
    chosen: other === run,
    choose: () => { run = other; show(); },
  })));
}

function showMasks() {
  byId("about-masks").textContent =
    `${label(run)}, measured on ${page.places[shown.place]}: means over ${whichClips()}. In bold: the best of a column. ` +
    "A heading sorts, a row chooses its mask for the whole page. Intervals and tests: audiointerp tables.";
  masksTable.show([{ name: "mask", text: true }, ...MEANS],
    Object.keys(run.tables[shown.place]).map((mask) => ({
      values: [mask, ...means(run, mask)],
      chosen: mask === shown.mask,
      choose: () => { shown.mask = mask; show(); },
    })));
}

function showListen() {
  const { scene } = shown;
  byId("about-listen").textContent = scene ? page.heard : run.silent;
  byId("clips-to-hear").hidden = !scene;
  byId("viewer").hidden = !scene;
  if (!scene) {
    byId("chances").hidden = true;
    for (const player of Object.values(players)) player.audio.pause();
    return;
  }
  offerClips(scenesOf(run));
  showViewer();
}

function showClips() {
  const heard = scenesOf(run).map((scene) => scene.clip);
  byId("only").hidden = !heard.length;
  const rows = run.tables[shown.place][shown.mask];
  const extra = Object.keys(run.diagnostics);
  byId("about-clips").textContent =
    `${label(run)}, ${whichClips()}, under the mask ${shown.mask}, measured on ${page.places[shown.place]}.` +
    (heard.length ? " A clip that can be pressed is one to listen to." : "");
  const columns = [{ name: "clip", text: true },
    ...(run.explained ? [{ name: "explained", text: true }] : []),
    { name: "class", text: true }, { name: "heard as", text: true },
    ...page.metrics,
    ...extra.map((name) => ({ name, about: "What the method says of its own map" }))];
  clipsTable.show(columns, clipsOf(run)
    .filter((at) => !byId("only-heard").checked || !heard.length || heard.includes(run.clips[at]))
    .map((at) => {
      const clip = run.clips[at];
      return {
        values: [clip, ...(run.explained ? [run.explained[at]] : []), run.target[at], `${run.correct[at] ? "✓" : "✗"} ${run.predicted[at]}`, ...rows[at],
          ...extra.map((name) => run.diagnostics[name][at])],
        chosen: shown.scene?.clip === clip,
        choose: heard.includes(clip)
          ? () => {
            showClip(clip);
            byId("listen").scrollIntoView();
            players.original.button.focus({ preventScroll: true });
          } : null,
      };
    }));
}

byId("class").addEventListener("change", (event) => { wanted.class = event.target.value; show(); });
byId("only-heard").addEventListener("change", showClips);
fillGlossary(MEANS.filter(({ better }) => better));
shown.mask = page.mask;
show();
