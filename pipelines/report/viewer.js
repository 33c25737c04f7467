// The recorded episodes: a camera that orbits and follows, and the clock that plays them.

const part = (id) => document.getElementById(id);
const recording = JSON.parse(part("recording").textContent);
const canvas = part("scene"), play = part("play"), slider = part("time"), chooser = part("episode");
const pace = part("pace"), follow = part("follow"), readout = part("readout");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const painter = Painter.on(canvas, recording);
const first = recording.camera;
const camera = {};
let episode, clock = 0, begun = null, colours = {};

const mixed = (a, b, share) => a.map((value, i) => value + share * (b[i] - value));
const clamped = (value, low, high) => Math.max(low, Math.min(high, value));

// The episode at the clock's step: the kept frames before and after it, mixed.
const moment = () => {
  const { steps, poses, view } = episode;
  const next = clamped(steps.findIndex((step) => step > clock), 1, steps.length - 1);
  const after = steps.length < 2 || clock >= steps.at(-1) ? steps.length - 1 : next, before = Math.max(0, after - 1);
  const share = after === before ? 0 : clamped((clock - steps[before]) / (steps[after] - steps[before]), 0, 1);
  const pose = mixed(poses[before], poses[after], share);
  for (let i = 0; i < pose.length; i += 7) {
    let turn = poses[before].slice(i + 3, i + 7), other = poses[after].slice(i + 3, i + 7);
    // A turn and its negative are the same: the nearer one, so that nothing spins between two frames.
    if (turn.reduce((sum, value, k) => sum + value * other[k], 0) < 0) other = other.map((value) => -value);
    turn = mixed(turn, other, share);
    const length = Math.hypot(...turn) || 1;
    turn.forEach((value, k) => { pose[i + 3 + k] = value / length; });
  }
  return { poses: pose, view: mixed(view[before], view[after], share), frame: share < 0.5 ? before : after };
};

const looking = (view) => {
  const target = (follow.checked ? view : first.target).map((value, i) => value + camera.moved[i]);
  const [a, e] = [camera.azimuth, camera.elevation].map((degrees) => degrees * Math.PI / 180);
  const ahead = [Math.cos(e) * Math.cos(a), Math.cos(e) * Math.sin(a), Math.sin(e)];
  const right = [Math.sin(a), -Math.cos(a), 0];
  const up = [right[1] * ahead[2], -right[0] * ahead[2], right[0] * ahead[1] - right[1] * ahead[0]];
  // A picture narrower than the one that the camera was framed for shows as much from side to side.
  const narrow = Math.max(1, first.aspect * canvas.clientHeight / Math.max(1, canvas.clientWidth));
  const slope = Math.tan(first.field_of_view * Math.PI / 360) * narrow;
  const eye = target.map((value, i) => value - camera.distance * ahead[i]);
  return { eye, target, axes: [right, up, ahead], distance: camera.distance, slope };
};

const draw = () => {
  if (!episode) return;
  const ratio = devicePixelRatio || 1, { poses, view, frame } = moment();
  const size = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(1, Math.round(side * ratio)));
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const past = episode.steps.filter((step) => step <= clock).length;
  painter.draw(looking(view), { poses, marker: episode.marker, path: episode.path, past }, colours);
  describe(frame);
};

const describe = (frame) => {
  const distance = episode.distance[frame], seconds = clock * recording.control_dt;
  const shown = Number((recording.scale * distance).toPrecision(3));
  const over = episode.ended && clock >= episode.steps.at(-1);
  const where = over ? "ended early" : distance <= recording.success_radius ? "at the goal" : "not at the goal";
  readout.textContent = `${seconds.toFixed(2)} s · distance ${shown} ${recording.unit} · ${where}`;
  slider.value = Math.round(clock);
  slider.setAttribute("aria-valuetext", readout.textContent);
};

const show = (step) => {
  clock = clamped(step, 0, episode.steps.at(-1));
  draw();
};

const pause = () => { begun = null; play.textContent = "Play"; };

const advance = (now) => {
  if (begun === null) return;
  const passed = Math.max(0, now - begun.now) / 1000 * Number(pace.value);
  show(begun.clock + passed / recording.control_dt);
  if (clock >= episode.steps.at(-1)) pause();
  else requestAnimationFrame(advance);
};

const start = () => {
  begun = { now: performance.now(), clock: clock >= episode.steps.at(-1) ? 0 : clock };
  play.textContent = "Pause";
  requestAnimationFrame(advance);
};

const choose = (number) => {
  pause();
  episode = recording.episodes[number];
  slider.max = episode.steps.at(-1);
  show(Infinity);
};

const reset = () => {
  const { azimuth, elevation, distance } = first;
  Object.assign(camera, { azimuth, elevation, distance, moved: [0, 0, 0] });
  follow.checked = first.follow;
  draw();
};

const turn = (right, up) => {
  camera.azimuth -= right;
  camera.elevation = clamped(camera.elevation - up, -89, 10);
  draw();
};

const zoom = (factor) => {
  camera.distance = clamped(camera.distance * factor, first.distance / 30, first.distance * 8);
  draw();
};

// Moves what is looked at along the floor, by shares of the distance.
const move = (right, ahead) => {
  const a = camera.azimuth * Math.PI / 180, d = camera.distance;
  camera.moved[0] += d * (Math.sin(a) * right + Math.cos(a) * ahead);
  camera.moved[1] += d * (Math.sin(a) * ahead - Math.cos(a) * right);
  draw();
};

const toggle = () => (begun === null ? start() : pause());

const keys = {
  " ": toggle,
  ArrowLeft: (shift) => (shift ? move(-0.05, 0) : turn(-6, 0)),
  ArrowRight: (shift) => (shift ? move(0.05, 0) : turn(6, 0)),
  ArrowUp: (shift) => (shift ? move(0, 0.05) : turn(0, 4)),
  ArrowDown: (shift) => (shift ? move(0, -0.05) : turn(0, -4)),
  "+": () => zoom(1 / 1.15),
  "=": () => zoom(1 / 1.15),
  "-": () => zoom(1.15),
  Home: reset,
};

const rgb = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16) / 255);

const recolour = () => {
  const style = getComputedStyle(canvas);
  const names = { panel: "panel", floor: "floor", rule: "floor-line", goal: "series-3", path: "series-2" };
  colours = Object.fromEntries(
    Object.entries(names).map(([use, name]) => [use, rgb(style.getPropertyValue(`--${name}`).trim())]),
  );
  draw();
};

// One finger or the mouse turns; two fingers, or the mouse with Shift, move; two fingers apart zoom.
const touches = new Map();

const dragged = (event) => {
  if (!touches.has(event.pointerId)) return;
  const before = touches.get(event.pointerId), now = [event.clientX, event.clientY];
  const [x, y] = now.map((value, i) => value - before[i]);
  const other = [...touches].find(([id]) => id !== event.pointerId)?.[1];
  touches.set(event.pointerId, now);
  const share = 1 / canvas.clientHeight;
  if (other) {
    const apart = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
    zoom(apart(before) / apart(now));
    move(-x * share / 2, y * share / 2);
  } else if (event.shiftKey) move(-x * share, y * share);
  else turn(0.5 * x, 0.4 * y);
};

const listen = () => {
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    keys[event.key](event.shiftKey);
    event.preventDefault();
  });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    touches.set(event.pointerId, [event.clientX, event.clientY]);
  });
  canvas.addEventListener("pointermove", dragged);
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => touches.delete(event.pointerId));
  }
  // A wheel over a picture that nobody has clicked on scrolls the page.
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    zoom(Math.exp(clamped(event.deltaY, -100, 100) / 600));
    event.preventDefault();
  }, { passive: false });
  play.addEventListener("click", toggle);
  slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
  chooser.addEventListener("change", () => { choose(Number(chooser.value)); if (!still.matches) start(); });
  pace.addEventListener("change", () => { if (begun) begun = { now: performance.now(), clock }; });
  follow.addEventListener("change", () => { camera.moved = [0, 0, 0]; draw(); });
  part("reset").addEventListener("click", reset);
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  matchMedia("print").addEventListener("change", recolour);
};

if (painter) {
  reset();
  recolour();
  choose(0);
  listen();
  // An episode that plays before it has been scrolled to is missed.
  if (!still.matches) {
    new IntersectionObserver(([seen], observer) => {
      if (seen.isIntersecting) { observer.disconnect(); start(); }
    }, { threshold: 0.6 }).observe(canvas);
  }
} else {
  part("controls").hidden = true;
  part("no-webgl").hidden = false;
}
