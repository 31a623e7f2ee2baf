/* ---------- saved interpretations ---------- */

const COLUMNS = [
  { name: "method, mask", text: true },
  { name: "kept", about: "Share of the spectrogram that the mask keeps", digits: 3 },
  ...page.metrics,
  { name: "p in", about: "Probability of the explained class, of what is kept", digits: 3 },
  { name: "p out", about: "Probability of the explained class, of the rest", digits: 3 },
];
const metrics = new SortedTable("metrics");

function showScene(model, clip) {
  const ofModel = page.scenes.filter((scene) => scene.model === model);
  shown.scene = ofModel.find((scene) => scene.clip === clip) ?? ofModel[0];
  show();
}

const showClip = (clip) => showScene(shown.scene.model, clip);

/** Keep what was chosen where the clip has it, else take the first there is. */
function settle() {
  const methods = Object.keys(shown.scene.methods);
  if (!methods.includes(shown.method)) shown.method = methods[0];
  const { tables } = method();
  if (!(shown.place in tables)) shown.place = Object.keys(tables)[0];
  settleMask();
}

function show() {
  settle();
  const { scene } = shown;
  const ofModel = page.scenes.filter((other) => other.model === scene.model);
  offerClips(ofModel);
  offerRadios(byId("models"), same(unique(page.scenes.map((other) => other.model))), scene.model,
    (model) => showScene(model, shown.scene.clip));
  offerRadios(byId("methods"), namedMethods(Object.keys(scene.methods)), shown.method,
    (name) => { shown.method = name; show(); });
  const places = Object.keys(method().tables);
  offerRadios(byId("places"), Object.fromEntries(places.map((place) => [place, page.places[place]])),
    shown.place, (place) => { shown.place = place; show(); });
  byId("places").hidden = places.length < 2 && places[0] === "features";
  showTimeline();
  showViewer();
  showDegenerate();
  showMetrics();
}

/** Say what is degenerate about the map and the mask that are shown. */
function showDegenerate() {
  const { degenerate } = method();
  const said = ["map", shown.mask].filter((name) => name in degenerate)
    .map((name) => `The ${name === "map" ? "map" : `mask ${name}`} is degenerate: ${degenerate[name]}.`);
  byId("degenerate").textContent = said.join(" ");
  byId("degenerate").hidden = !said.length;
}

function showMetrics() {
  const { scene } = shown;
  const methods = byId("all-methods").checked ? Object.keys(scene.methods) : [shown.method];
  metrics.show(COLUMNS, methods.flatMap((name) => {
    const { tables, masks, kept, sounds, explained } = scene.methods[name];
    const table = tables[shown.place] ?? {};
    const target = scene.classes.indexOf(explained);
    return Object.keys(masks)
      .filter((mask) => mask in table)
      .filter((mask) => byId("all-masks").checked || mask in sounds || mask === shown.mask)
      .map((mask) => ({
        values: [`${named(name)} · ${mask}`, kept[mask], ...table[mask].metrics,
          table[mask].in[target], table[mask].out[target]],
        chosen: name === shown.method && mask === shown.mask,
        choose: () => { Object.assign(shown, { method: name, mask }); show(); },
      }));
  }));
}

for (const id of ["all-methods", "all-masks"]) byId(id).addEventListener("change", showMetrics);
fillGlossary(page.metrics);
[shown.scene] = page.scenes;
show();
