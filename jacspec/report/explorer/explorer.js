// The controls, and starting: unpack Plotly and the data, offer the views, draw what is chosen.

const FONT = { family: "system-ui, Segoe UI, Roboto, DejaVu Sans, sans-serif", size: 13 };
const LAYOUT = {
  font: FONT, margin: { t: 24, r: 16, b: 56, l: 72 }, hovermode: "closest", showlegend: true,
  legend: { orientation: "h", y: 1.02, yanchor: "bottom", maxheight: 0.3 },
};
const CONFIG = {
  responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"],
  showSendToCloud: false, plotlyServerURL: "", // Plotly's own default is to offer an upload
  toImageButtonOptions: { format: "svg", filename: "jacspec" },
};
const PAPER = { width: 680, height: 400 };
const SCREEN = { width: null, height: null, autosize: true };

/** Make an element; strings among its children become text, never markup. */
function make(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

/** Inflate what an element holds as base64 of gzip. */
async function unpack(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

async function start() {
  document.head.append(make("script", { textContent: await unpack("explorer-plotly") }));
  if (!window.Plotly) throw new Error("Plotly did not load");
  const data = JSON.parse(await unpack("explorer-data"));
  const views = VIEWS[data.kind].filter((view) => view.exists(data));
  if (views.includes(comparison)) views.unshift(views.pop()); // several runs are there to be compared
  const chooseView = { key: "view", words: "View", options: () => views.map((view) => [view.name, view.title]) };
  const page = layOut();
  const choice = {};
  const refresh = () => {
    const view = views.find((each) => each.name === choice.view) ?? views[0];
    arrange(page.form, [chooseView, ...view.controls], data, choice);
    page.play.hidden = !playable(page.form).length;
    show(page, view.draw(data, choice));
  };
  page.form.addEventListener("change", () => {
    stop(page.play);
    Object.assign(choice, read(page.form));
    refresh();
  });
  page.play.addEventListener("click", () => play(page, (run) => {
    choice.run = run;
    refresh();
  }));
  page.details.addEventListener("toggle", () => page.fillTable());
  window.addEventListener("beforeprint", () => Plotly.relayout(page.plot, PAPER));
  window.addEventListener("afterprint", () => Plotly.relayout(page.plot, SCREEN));
  refresh();
  document.getElementById("explorer-state").remove();
}

/** Put the explorer's empty parts on the page. */
function layOut() {
  const form = make("form", { className: "controls", id: "explorer-controls" });
  const play = make("button", { type: "button", id: "explorer-play", textContent: PLAY });
  const plot = make("div", { id: "explorer-plot", role: "figure" });
  const says = make("p", { id: "explorer-says", ariaLive: "polite" });
  const table = make("div", { className: "scroll" });
  const details = make("details", { id: "explorer-values" }, make("summary", {}, "These values as a table"), table);
  document.getElementById("explorer").append(form, play, plot, says, details);
  return { form, play, plot, says, details, table };
}

// Controls

/** Bring the controls up to date; one whose options stay the same stays, and with it the keyboard's focus. */
function arrange(form, controls, data, choice) {
  const before = new Map([...form.children].map((element) => [element.dataset.key, element]));
  const elements = controls.map((control) => {
    const options = control.options(data, choice);
    choice[control.key] = keep(choice[control.key], options.map(([value]) => value), control);
    const signature = JSON.stringify([control.words, options]);
    const old = before.get(control.key);
    const element = old?.dataset.signature === signature ? old : makeControl(control, options, signature);
    element.hidden = options.length < 2;
    mark(element, choice[control.key]);
    return element;
  });
  if ([...form.children].some((element, place) => element !== elements[place]) || !form.children.length) {
    const focused = document.activeElement?.id;
    form.replaceChildren(...elements);
    if (focused) document.getElementById(focused)?.focus();
  }
}

/** Keep what was chosen before as far as it is still there; else take the first (`last`: the last; several: all). */
function keep(chosen, values, { several, last }) {
  const still = values.filter((value) => (several ? chosen?.includes(value) : value === chosen));
  if (several) return still.length ? still : values;
  return still[0] ?? (last ? values.at(-1) : values[0]);
}

function makeControl({ key, words, several }, options, signature) {
  const id = `explorer-${key}`;
  const ticks = () => options.map(([value, text], place) =>
    make("label", {}, make("input", { type: "checkbox", name: key, value, id: `${id}-${place}` }), text));
  const entries = () => options.map(([value, text]) => make("option", { value }, text));
  const made = several
    ? make("fieldset", {}, make("legend", {}, words), ...ticks())
    : make("div", {}, make("label", { htmlFor: id }, words), make("select", { id, name: key }, ...entries()));
  Object.assign(made.dataset, { key, signature });
  return made;
}

function mark(element, chosen) {
  for (const select of element.querySelectorAll("select")) select.value = chosen;
  for (const box of element.querySelectorAll("input")) box.checked = chosen.includes(box.value);
}

/** Read every control: by key the chosen value, or those that are ticked. */
function read(form) {
  const ticked = (element) => [...element.querySelectorAll("input:checked")].map((box) => box.value);
  return Object.fromEntries([...form.children].map((element) =>
    [element.dataset.key, element.querySelector("select")?.value ?? ticked(element)]));
}

// One run after the other

const [PLAY, STOP, MILLISECONDS] = ["Play the runs", "Stop", 800];

/** List the runs that the view lets choose from, where there are several. */
function playable(form) {
  const runs = [...form.querySelectorAll("#explorer-run option")].map((option) => option.value);
  return runs.length > 1 ? runs : [];
}

/** Show the runs in their order, from the first, and stop at the last; or stop where they are being shown. */
function play({ form, play: button }, showRun) {
  if (stop(button)) return;
  const runs = playable(form);
  const next = () => {
    showRun(runs.shift());
    if (!runs.length) stop(button);
  };
  button.textContent = STOP;
  button.dataset.timer = setInterval(next, MILLISECONDS);
  next();
}

/** Stop what is being played; tells whether anything was. */
function stop(button) {
  const { timer } = button.dataset;
  clearInterval(Number(timer));
  delete button.dataset.timer;
  button.textContent = PLAY;
  return timer !== undefined;
}

// What is shown

function show(page, { traces, layout, says, table }) {
  Plotly.react(page.plot, traces, { ...LAYOUT, ...layout, yaxis: { ...layout.yaxis, automargin: true } }, CONFIG);
  page.says.textContent = says;
  page.plot.ariaLabel = says;
  page.fillTable = () => page.details.open && page.table.replaceChildren(makeTable(table));
  page.fillTable();
}

function makeTable({ head, rows }) {
  const line = (tag, values) => make("tr", {}, ...values.map((value) => make(tag, {}, String(value ?? "–"))));
  const body = make("tbody", {}, ...rows.map((row) => line("td", row)));
  return make("table", { className: "numbers" }, make("thead", {}, line("th", head)), body);
}

start().catch((error) => {
  const state = document.getElementById("explorer-state");
  const words = "The figures and tables below show the same run.";
  if (state) state.textContent = `The interactive part could not start (${error.message}). ${words}`;
});
