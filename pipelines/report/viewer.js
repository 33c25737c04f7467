// The recorded episodes on a canvas: a camera that orbits, a painter that draws far things first.
(() => {
  "use strict";
  const root = document.getElementById("viewer");
  if (!root) return;
  const part = (id) => document.getElementById(id);
  const data = JSON.parse(part("recording").textContent);
  const canvas = part("scene"), pen = canvas.getContext("2d");
  const play = part("play"), slider = part("frame"), chooser = part("episode"), readout = part("readout");
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const camera = { azimuth: -0.9, elevation: 0.42 };
  let episode, frame = 0, begun = null, colours = {};

  // A goal in the plane lies at the height of the tip; any other than a position is not drawn.
  const goalPoint = (e) => {
    if (e.goal.length === 3) return e.goal;
    return e.goal.length === 2 ? [...e.goal, e.points.at(-1).at(-1)[2]] : null;
  };

  // One frame for all episodes: the middle of everything that is ever shown, and the reach around it.
  const bodies = data.episodes.flatMap((e) => [...e.points.flat(), ...(goalPoint(e) ? [goalPoint(e)] : [])]);
  const everything = [...bodies, ...bodies.map(([x, y]) => [x, y, 0])];  // with shadows
  const low = [0, 1, 2].map((i) => everything.reduce((m, p) => Math.min(m, p[i]), Infinity));
  const high = [0, 1, 2].map((i) => everything.reduce((m, p) => Math.max(m, p[i]), -Infinity));
  const centre = low.map((value, i) => (value + high[i]) / 2);
  const away = (p) => Math.hypot(...p.map((value, i) => value - centre[i]));
  const reach = everything.reduce((m, p) => Math.max(m, away(p)), 1e-6) + data.success_radius;

  // World point -> [x, y] in pixels, pixels a metre there, nearness to the eye.
  const project = (point) => {
    const [x, y, z] = point.map((value, i) => value - centre[i]);
    const { azimuth: a, elevation: e } = camera;
    const ahead = Math.cos(a) * x + Math.sin(a) * y;
    const near = Math.cos(e) * ahead + Math.sin(e) * z;
    const size = Math.min(canvas.clientWidth, canvas.clientHeight) * 0.5 / reach;
    const zoom = size * 4.5 * reach / (4.5 * reach - near);
    const right = Math.cos(a) * y - Math.sin(a) * x, up = Math.cos(e) * z - Math.sin(e) * ahead;
    return { x: canvas.clientWidth / 2 + right * zoom, y: canvas.clientHeight / 2 - up * zoom, zoom, near };
  };

  const line = (points, colour, width, alpha = 1) => {
    pen.beginPath();
    for (const p of points.map(project)) pen.lineTo(p.x, p.y);
    Object.assign(pen, { strokeStyle: colour, lineWidth: width, globalAlpha: alpha });
    pen.stroke();
  };

  const disc = (at, radius, colour, alpha) => {
    pen.beginPath();
    pen.arc(at.x, at.y, radius, 0, 2 * Math.PI);
    Object.assign(pen, { fillStyle: colour, globalAlpha: alpha });
    pen.fill();
  };

  const drawGround = () => {
    const rough = reach / 4, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const count = Math.ceil(reach / step), edge = count * step;
    const base = episode.points[0][0];
    for (let i = -count; i <= count; i++) {
      line([[base[0] + i * step, base[1] - edge, 0], [base[0] + i * step, base[1] + edge, 0]], colours.rule, 1);
      line([[base[0] - edge, base[1] + i * step, 0], [base[0] + edge, base[1] + i * step, 0]], colours.rule, 1);
    }
  };

  const drawGoal = (goal) => {
    const at = project(goal), radius = data.success_radius * at.zoom;
    disc(at, radius, colours.goal, 0.3);
    Object.assign(pen, { strokeStyle: colours.goal, lineWidth: 1.5, globalAlpha: 0.9 });
    pen.stroke();
    disc(at, 2, colours.goal, 1);
  };

  const drawLink = (from, to, thickness) => {
    const width = thickness * (project(from).zoom + project(to).zoom) / 2;
    line([from, to], colours.paper, width + 3);
    line([from, to], colours.robot, width);
    line([from, to], colours.shine, width * 0.3, 0.6);
    disc(project(to), width * 0.28, colours.shine, 0.9);
  };

  const draw = () => {
    const ratio = devicePixelRatio || 1, points = episode.points[frame], goal = goalPoint(episode);
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    pen.scale(ratio, ratio);
    Object.assign(pen, { lineCap: "round", lineJoin: "round" });
    drawGround();
    line(points.map(([x, y]) => [x, y, 0]), colours.ink, 0.06 * reach * project(points[0]).zoom, 0.12);
    if (goal) line([goal, [goal[0], goal[1], 0]], colours.goal, 1, 0.5);
    const links = points.slice(1).map((to, i) => {
      const taper = 1.15 - 0.5 * (i + 1) / points.length;
      const near = (project(points[i]).near + project(to).near) / 2;
      return { near, paint: () => drawLink(points[i], to, 0.1 * reach * taper) };
    });
    const things = goal ? [...links, { near: project(goal).near, paint: () => drawGoal(goal) }] : links;
    things.sort((a, b) => a.near - b.near).forEach((thing) => thing.paint());
    const tips = episode.points.map((p) => p.at(-1));
    line(tips, colours.path, 1.5, 0.3);
    line(tips.slice(0, frame + 1), colours.path, 2);
    pen.globalAlpha = 1;
    describe();
  };

  const describe = () => {
    const distance = episode.distance[frame], seconds = episode.steps[frame] * data.control_dt;
    const shown = Number((data.scale * distance).toPrecision(3));
    const where = distance <= data.success_radius ? "at the goal" : "not at the goal";
    readout.textContent = `${seconds.toFixed(2)} s · distance ${shown} ${data.unit} · ${where}`;
    slider.value = frame;
    slider.setAttribute("aria-valuetext", readout.textContent);
  };

  const show = (number) => {
    frame = Math.max(0, Math.min(episode.points.length - 1, number));
    draw();
  };

  const pause = () => { begun = null; play.textContent = "Play"; };

  const advance = (now) => {
    if (begun === null) return;
    const step = episode.steps[0] + (now - begun) / 1000 / data.control_dt;
    const next = episode.steps.findIndex((s) => s >= step);
    if (next < 0) { pause(); show(Infinity); return; }
    if (next !== frame) show(next);
    requestAnimationFrame(advance);
  };

  const start = () => {
    const from = frame === episode.points.length - 1 ? 0 : frame;
    begun = performance.now() - (episode.steps[from] - episode.steps[0]) * data.control_dt * 1000;
    play.textContent = "Pause";
    requestAnimationFrame(advance);
  };

  const choose = (number) => {
    episode = data.episodes[number];
    slider.max = episode.points.length - 1;
    show(Infinity);
  };

  const recolour = () => {
    const style = getComputedStyle(root);
    const names = { ink: "ink", paper: "panel", rule: "rule", robot: "robot", shine: "shine", goal: "series-3", path: "series-2" };
    for (const [use, name] of Object.entries(names)) colours[use] = style.getPropertyValue(`--${name}`).trim();
    if (episode) draw();
  };

  const turn = (right, up) => {
    camera.azimuth -= right;
    camera.elevation = Math.max(-0.05, Math.min(1.5, camera.elevation + up));
    draw();
  };

  const toggle = () => (begun === null ? start() : pause());
  const turns = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, 0.08], ArrowDown: [0, -0.08] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === " ") toggle();
    else if (turns[event.key]) turn(...turns[event.key]);
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) turn(event.movementX * 0.01, event.movementY * 0.01);
  });
  play.addEventListener("click", toggle);
  slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
  chooser.addEventListener("change", () => { choose(Number(chooser.value)); if (!still.matches) start(); });
  new ResizeObserver(() => draw()).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  matchMedia("print").addEventListener("change", recolour);

  recolour();
  choose(0);
  // An episode that plays before it has been scrolled to is missed.
  if (!still.matches) {
    new IntersectionObserver(([seen], observer) => {
      if (seen.isIntersecting) { observer.disconnect(); start(); }
    }, { threshold: 0.6 }).observe(canvas);
  }
})();
