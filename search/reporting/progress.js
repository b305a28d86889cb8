// Progress: the best mIoU above, the hypervolume below, over the same axis of training time.

function progressSteps(run, key, yaxis, name, color, colors) {
  const steps = run[key], total = run.total;
  const ids = steps.map((step) => step[2]);
  const last = steps.at(-1);
  return [
    {
      type: "scatter", mode: "lines", yaxis, hoverinfo: "skip", line: { shape: "hv", color, width: 2 },
      name: plain(run.name), legendgroup: run.name, showlegend: key === "best",
      x: [...steps.map((step) => step[0]), total], y: [...steps.map((step) => step[1]), last[1]],
    },
    {
      type: "scatter", mode: "markers", yaxis, customdata: ids, hoverinfo: "text", legendgroup: run.name, showlegend: false,
      x: steps.map((step) => step[0]), y: steps.map((step) => step[1]),
      hovertext: steps.map(([spent, value, id]) => hoverText([...describe(data, byId.get(id)), `${name} ${value.toFixed(3)} after ${shortNumber(spent)} ${data.progress.unit}`])),
      marker: {
        color: ids.map((id) => (id === selection.trial ? colors.page : color)), size: ids.map((id) => (id === selection.trial ? 15 : 7)),
        line: { color, width: ids.map((id) => (id === selection.trial ? 3 : 0)) },
      },
    },
  ];
}

function drawProgress() {
  if (!data.progress) return;
  const colors = theme();
  const { series, unit } = data.progress;
  const layout = baseLayout(colors, unit, "");
  layout.yaxis2 = { ...layout.yaxis, title: { text: "hypervolume" }, domain: [0, 0.46], rangemode: "tozero" };
  Object.assign(layout.yaxis, { title: { text: "best mIoU" }, domain: [0.54, 1] });
  Object.assign(layout.xaxis, { anchor: "y2", rangemode: "tozero" });
  Object.assign(layout, { showlegend: series.length > 1, uirevision: "progress" });
  const traces = series.flatMap((run) => {
    const color = run.color ?? colors.accent;
    return [...progressSteps(run, "best", "y", "best mIoU", color, colors), ...progressSteps(run, "hypervolume", "y2", "hypervolume", color, colors)];
  });
  Plotly.react(get("progress-chart"), traces, layout, CHART_OPTIONS);
}

function connectProgress() {
  if (data.progress) onPointClick(get("progress-chart"));
}

sections.push({ draw: drawProgress, connect: connectProgress });
