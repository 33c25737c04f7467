"""Draws the pictures of the README from a finished run of the quickstart.

    python docs/pictures/make.py runs/quickstart

arm.gif shows the selected student in MuJoCo's C engine, drawn with the robot's meshes where franky-sim is
installed (the extra `robot`); report.png is the top of the run's report in headless Chromium."""

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines import closed_loop, open_run, render
from pipelines.report import write_report
from pipelines.watch import chosen
from teacher.evaluate import evaluation_layout, evaluation_noise_key, evaluation_starts
from teacher.rollout import simulation
from teacher.tasks import make_task

HERE = Path(__file__).parent
EPISODES, SECONDS = 5, 1.6  # of each episode: the arm rests at its goal by then
SIZE, CROP = (800, 600), (150, 165, 570, 505)  # pixels: left, top, right, bottom of what is kept
STRIDE, COLOURS = 2, 64  # control periods a frame; of all frames together
WINDOW = (1000, 1075)  # pixels of the report's page
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def draw_arm(folder: str, file: Path) -> None:
    """Writes the selected student's first held-out episodes, one after the other, as a GIF."""
    subject = chosen(folder)
    task = make_task(subject.config.task.name)
    robot = simulation(subject.config.task.name, closed_loop.control_engine(task, subject.settings))
    starts = evaluation_starts(robot, EPISODES, evaluation_layout(subject.config), None)
    trajectories = robot.rollout(subject.policy, starts, noise_key=evaluation_noise_key(None))
    recording = render.record(task, trajectories, starts.goal, EPISODES)
    assert recording is not None
    last = round(SECONDS / recording.spec.control_dt)
    with render.rendering(recording, SIZE) as draw:
        steps = [(i, step) for i in range(EPISODES) for step in range(0, last + 1, STRIDE)]
        frames = [Image.fromarray(draw(i, step)).crop(CROP) for i, step in steps]
    # One palette for all frames: what does not move keeps its colour, and need not be stored again.
    sample = Image.fromarray(np.concatenate([np.asarray(each) for each in frames[:: len(frames) // 8]]))
    palette = sample.quantize(COLOURS, Image.Quantize.MEDIANCUT)
    images = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in frames]
    milliseconds = round(1000 * STRIDE * recording.spec.control_dt)
    each = len(images) // EPISODES
    pauses = [milliseconds if (i + 1) % each else 800 for i in range(len(images))]
    images[0].save(
        file, save_all=True, append_images=images[1:], duration=pauses, loop=0, optimize=False, disposal=1
    )


def draw_report(folder: str, file: Path) -> None:
    """Writes the top of the run's report as a PNG."""
    page = write_report(open_run(folder)).resolve()
    program = next(filter(None, map(shutil.which, BROWSERS)))
    with tempfile.TemporaryDirectory() as work:
        shot = Path(work) / "page.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        size = f"--window-size={WINDOW[0]},{WINDOW[1]}"
        words = [str(program), *flags, size, f"--user-data-dir={work}", f"--screenshot={shot}", page.as_uri()]
        subprocess.run(words, check=True, capture_output=True)
        image = Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")
    image.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    draw_arm(sys.argv[1], HERE / "arm.gif")
    draw_report(sys.argv[1], HERE / "report.png")
