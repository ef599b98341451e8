// The views of runs over samples: boxes by layer, medians of spectra, the spectrum of one sample.

const groupsOf = (data, choice) => runOf(data, choice).groups;
const groupLayers = (data, choice) => groupsOf(data, choice).map((group) => group.layer);
const components = (data, choice) => groupsOf(data, choice).map((group) => group.component);
const COMPONENTS = named("components", "Components", components, { several: true });

const ENDS = ["whisker_low", "q1", "median", "q3", "whisker_high"];

/** Every sample's value, or where the page holds none the ends of the box. */
const valuesOf = (group, metric) => group.values?.[metric] ?? ENDS.map((name) => group.boxes[metric][name]);

const POINTS = {
  key: "points", words: "Points",
  options: (data, choice) => (groupsOf(data, choice).some((group) => group.values)
    ? [["outliers", "beyond the whiskers"], ["all", "every sample"], ["none", "none"]] : [["none", "none"]]),
};

const boxes = {
  name: "boxes",
  title: "distribution by layer",
  exists: () => true,
  controls: [RUN, METRIC, COMPONENTS, ...range(groupLayers), POINTS, SCALE],
  draw(data, choice) {
    const { metric } = choice;
    const shown = groupsOf(data, choice)
      .filter((group) => choice.components.includes(group.component) && inRange(group.layer, choice))
      .filter((group) => group.boxes[metric]);
    const values = shown.flatMap((group) => valuesOf(group, metric));
    const type = scaleOf(values, choice);
    const names = choice.components.map((name) => wordsOf(data, name));
    const medians = shown.map((group) => ({
      value: group.boxes[metric].median, at: `${wordsOf(data, group.component)}, layer ${group.layer}`,
    }));
    const what = `${data.metrics[metric]} of ${listed(names)}, ${runOf(data, choice).tokens.length} samples.`;
    return {
      traces: choice.components.map((name) => boxTrace(data, name, shown, choice)),
      layout: {
        boxmode: "group",
        xaxis: countAxis(shown.map((group) => group.layer), runOf(data, choice).layers),
        yaxis: valueAxis(data.metrics[metric], type, values),
      },
      says: `${what} Medians: ${spanWords(medians)}${hiddenWords(values, type)}`,
      table: boxTable(data, shown, metric),
    };
  },
};

/** Boxes as summary.csv has them (Plotly would take other quartiles), and behind them the samples. */
function boxTrace(data, component, groups, { run, metric, points }) {
  const own = groups.filter((group) => group.component === component);
  const [lowerfence, q1, middle, q3, upperfence] = ENDS.map((name) => own.map((group) => group.boxes[metric][name]));
  const { words, colour } = data.styles[component];
  const { tokens } = data.runs[Number(run)];
  const say = (value, sample) => `sample ${sample}, ${tokens[sample]} tokens: ${value}`;
  return {
    type: "box", name: plain(words), x: own.map((group) => group.layer), offsetgroup: component,
    lowerfence, q1, median: middle, q3, upperfence,
    ...(own.every((group) => group.values) && {
      y: own.map((group) => group.values[metric]), text: own.map((group) => group.values[metric].map(say)),
    }),
    hovertemplate: "%{text}<extra></extra>", // of points; a box says its own numbers
    boxpoints: points === "none" ? false : points, jitter: points === "all" ? 0.7 : 0.2, pointpos: 0,
    // Among all samples the box must still be seen.
    fillcolor: `${colour}99`, line: { color: points === "all" ? "#1b1e23" : colour, width: 1.5 },
    marker: {
      color: colour, size: 4, opacity: points === "all" ? 0.3 : 0.7,
      symbol: SYMBOLS[placeOf(data, component) % SYMBOLS.length],
    },
  };
}

function boxTable(data, groups, metric) {
  const columns = ["n", "mean", "median", "q1", "q3", "whisker_low", "whisker_high"];
  const numbers = (group) => columns.map((name) => group.boxes[metric][name]);
  return {
    head: ["layer", "component", ...columns.map((name) => name.replace("_", " "))],
    rows: groups.map((group) => [group.layer, wordsOf(data, group.component), ...numbers(group)]),
  };
}

const hasMedians = (run) => run.groups.some((group) => group.median);
const withMedian = (data, choice) => groupsOf(data, choice).filter((group) => group.median);

const medianSpectra = {
  name: "medians",
  title: "median spectra by layer",
  exists: (data) => data.runs.some(hasMedians),
  controls: [
    runWith(hasMedians),
    named("component", "Component", (data, choice) => withMedian(data, choice).map((group) => group.component)),
    ...range((data, choice) => withMedian(data, choice).map((group) => group.layer)),
    SCALE,
  ],
  draw(data, choice) {
    const shown = withMedian(data, choice)
      .filter((group) => group.component === choice.component && inRange(group.layer, choice));
    const lines = shown.map((group, place) => ({
      name: `layer ${group.layer}`,
      values: group.median,
      style: { color: viridis(place, shown.length), dash: DASHES[place % DASHES.length] },
    }));
    const what = `Singular values of ${wordsOf(data, choice.component)} by index`;
    return drawSpectra(lines, `${what}, the median over samples, a line a layer.`, choice);
  },
};

const samplesOf = (run) => Object.keys(run.groups[0]?.spectra ?? {});

const sampleSpectrum = {
  name: "sample",
  title: "spectrum of one sample",
  exists: (data) => data.runs.some((run) => samplesOf(run).length),
  controls: [
    runWith((run) => samplesOf(run).length),
    { key: "sample", words: "Sample", options: (data, choice) => asOptions(samplesOf(runOf(data, choice))) },
    numbered("layer", "Layer", groupLayers),
    COMPONENTS,
    SCALE,
  ],
  draw(data, choice) {
    const run = runOf(data, choice);
    const lines = run.groups
      .filter((group) => group.layer === Number(choice.layer) && choice.components.includes(group.component))
      .map((group) => {
        const { words, colour } = data.styles[group.component];
        const dash = DASHES[placeOf(data, group.component) % DASHES.length];
        return { name: words, values: group.spectra[choice.sample], style: { color: colour, dash } };
      });
    const where = `layer ${choice.layer} at sample ${choice.sample} (${run.tokens[choice.sample]} tokens)`;
    return drawSpectra(lines, `Singular values of ${where}: “${run.texts[choice.sample]}”`, choice);
  },
};
