/* ---------- a recording of several windows ---------- */

/** Make an SVG element with attributes. */
function draw(tag, attributes) {
  const element = document.createElementNS(byId("curves").namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const recordingOf = (scene) => page.recordings[scene?.recording];
/** The interpreted windows of the recording that is shown, in the order of time. */
const stops = () => page.scenes.filter((scene) => scene.recording === shown.scene.recording);
const middle = ({ start, end }) => (start + end) / 2;
/** When something is, as a share of the width of a recording's timeline, and the other way round. */
const extent = ({ windows }) => [windows[0][0], windows[windows.length - 1][1]];
const shareOf = (recording, time) => {
  const [start, end] = extent(recording);
  return (time - start) / (end - start);
};

let drawn = null;

function showTimeline() {
  const recording = recordingOf(shown.scene);
  byId("timeline").hidden = !recording;
  if (!recording) return;
  if (drawn !== recording) drawTimeline(recording);
  drawn = recording;
  const { scene } = shown;
  const all = stops();
  const spoken = `${scene.start.toFixed(1)} to ${scene.end.toFixed(1)} s: ${scene.label}, ` +
    percent(scene.probabilities[scene.classes.indexOf(scene.label)]);
  const track = byId("track");
  track.setAttribute("aria-label", `Window of ${recording.name}`);
  track.setAttribute("aria-valuemax", all.length);
  track.setAttribute("aria-valuenow", all.indexOf(scene) + 1);
  track.setAttribute("aria-valuetext", spoken);
  byId("here").style.left = `${100 * shareOf(recording, scene.start)}%`;
  byId("here").style.width = `${100 * (shareOf(recording, scene.end) - shareOf(recording, scene.start))}%`;
  byId("stops").replaceChildren(...all.map((stop) => {
    const point = make("span", { title: stop.clip, className: stop === scene ? "chosen" : "" });
    point.style.left = `${100 * shareOf(recording, middle(stop))}%`;
    return point;
  }));
  byId("curve-names").replaceChildren(...recording.curves.map(({ name }, at) => {
    const share = scene.probabilities[scene.classes.indexOf(name)];
    return make("li", {}, make("i", { className: `curve-${at}` }), `${name} `, make("b", {}, percent(share)));
  }));
}

function drawTimeline(recording) {
  byId("timeline-title").textContent = recording.name;
  const { silent: quiet } = recording;
  byId("about-timeline").textContent = recording.about +
    (quiet.length ? `. Grey: ${quiet.length} silent window${quiet.length === 1 ? "" : "s"}.` : ".");
  byId("overview").replaceChildren(make("img", { src: recording.overview, alt: "" }));
  drawAxis(byId("chance-axis"), [["0", 0], ["0.5", 0.5], ["1", 1]], "bottom");
  drawAxis(byId("timeline-axis"), recording.times, "left");
  const x = (time) => (1000 * shareOf(recording, time)).toFixed(2);
  const middles = recording.windows.map(([start, end]) => x((start + end) / 2));
  const silent = quiet.map((at) => {
    const [start, end] = recording.windows[at];
    return draw("rect", { class: "silent", x: x(start), width: x(end) - x(start), y: 0, height: 100 });
  });
  const lines = [25, 50, 75].map((y) => draw("line", { x1: 0, x2: 1000, y1: y, y2: y }));
  const curves = recording.curves.map(({ values }, at) => draw("polyline", {
    class: `curve-${at}`,
    points: values.map((value, window) => `${middles[window]},${(100 - 100 * value).toFixed(2)}`).join(" "),
  })).reverse();
  byId("curves").replaceChildren(...silent, ...lines, ...curves);
}

/** Show the window so many places on, as far as there are any. */
function step(by) {
  const all = stops();
  const at = Math.min(Math.max(all.indexOf(shown.scene) + by, 0), all.length - 1);
  showClip(all[at].clip);
}

const STEPS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -Infinity, End: Infinity };

byId("track").addEventListener("click", (event) => {
  const recording = recordingOf(shown.scene);
  const box = byId("track").getBoundingClientRect();
  const place = (event.clientX - box.left) / box.width;
  const distance = (stop) => Math.abs(shareOf(recording, middle(stop)) - place);
  const [nearest] = [...stops()].sort((a, b) => distance(a) - distance(b));
  showClip(nearest.clip);
});
document.addEventListener("keydown", (event) => {
  const onTrack = event.target === byId("track");
  if (event.ctrlKey || event.altKey || event.metaKey || !recordingOf(shown.scene)) return;
  // Elsewhere the keys up and down scroll the page.
  const by = onTrack || ["ArrowLeft", "ArrowRight"].includes(event.key) ? STEPS[event.key] : undefined;
  if (!by || !(onTrack || event.target === document.body)) return;
  event.preventDefault();
  step(by);
});
