import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from teacher.tasks.mazes import BIG, BIG_HUMANOID, HARDEST, U4, U5, Maze, MazeCourse, OpenFloor, U

CELL = 0.5
GRIDS = {"u": U, "u4": U4, "u5": U5, "big": BIG, "big_humanoid": BIG_HUMANOID, "hardest": HARDEST}
# Rows and columns, counted from 0, as the published mazes lay them out for evaluation.
FAR = {
    "u": [(3, 1), (3, 2), (3, 3)],
    "u4": [(4, 1), (5, 1), (5, 2), (5, 3)],
    "u5": [(4, 1), (4, 6), (5, 1), (5, 2), (5, 3), (5, 4), (5, 5), (5, 6)],
    "big": [(1, 5), (1, 6), (2, 6), (5, 3), (5, 6), (6, 2), (6, 3), (6, 5), (6, 6)],
    "big_humanoid": [(1, 5), (1, 6), (2, 5), (2, 6), (5, 3), (5, 6), (6, 2), (6, 3), (6, 5), (6, 6)],
    "hardest": [],
}


@pytest.fixture(params=GRIDS)
def name(request):
    return request.param


@pytest.fixture
def maze(name):
    return Maze(GRIDS[name], CELL)


def every_cell(maze):
    """(row, column, letter) of every cell."""
    return [(i, j, letter) for i, row in enumerate(maze.rows) for j, letter in enumerate(row)]


def test_boxes_fill_the_wall_cells_and_nothing_else_half_a_cell_high(maze):
    spec = mujoco.MjSpec()
    maze.build(spec)
    model = spec.compile()
    np.testing.assert_allclose(model.geom_pos[:, 2] - model.geom_size[:, 2], 0, atol=1e-12)
    np.testing.assert_allclose(2 * model.geom_size[:, 2], 0.5 * CELL)
    boxes = np.concatenate([model.geom_pos[:, :2], model.geom_size[:, :2]], axis=-1)
    assert len(boxes) < maze.walls.sum() / 2
    for i, j, letter in every_cell(maze):
        for shift in ((0, 0), (0.49, 0.49), (0.49, -0.49), (-0.49, 0.49), (-0.49, -0.49)):
            point = CELL * (np.array([i, j]) + shift)
            inside = (np.abs(point - boxes[:, :2]) < boxes[:, 2:]).all(-1).sum()
            assert inside == (letter == "#"), (i, j, shift)
            assert maze.is_wall(*point) == (letter == "#")


def test_goals_are_all_free_cells_but_the_start_and_far_ones_the_published(name, maze):
    course = MazeCourse(maze)
    free = {(CELL * i, CELL * j) for i, j, letter in every_cell(maze) if letter in "GF"}
    assert drawn(course, "all") == free
    assert course.start not in free
    assert not maze.is_wall(*np.array(course.start))
    assert course.goal_range == tuple(tuple(side) for side in (np.min([*free], 0), np.max([*free], 0)))
    assert course.layouts == ("all", "far") if FAR[name] else ("all",)
    if FAR[name]:
        assert drawn(course, "far") == {(CELL * i, CELL * j) for i, j in FAR[name]}


def drawn(course, layout):
    keys = jax.random.split(jax.random.key(0), 2000)
    return {tuple(goal) for goal in np.asarray(jax.vmap(lambda key: course.goal(key, layout))(keys)).tolist()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("###\n#S#\n####", r"rows of a maze must be equally long, found \[3, 3, 4\]"),
        ("", r"rows of a maze must be equally long, found \[\]"),
        ("####\n#SX#\n####", r"a maze is made of '#SGF.', found \['X'\]"),
        ("####\n#SG.\n####", "outermost cells of a maze must be walls"),
        ("#.##\n#SG#\n####", "outermost cells of a maze must be walls"),
    ],
)
def test_a_bad_grid_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Maze(text, CELL)


@pytest.mark.parametrize(("nearest", "farthest"), [(10.0, 10.0), (1.0, 5.0)])
def test_goals_on_an_open_floor_lie_anywhere_between_two_distances(nearest, farthest):
    floor = OpenFloor("ring", nearest, farthest)
    keys = jax.random.split(jax.random.key(1), 4000)
    goals = np.asarray(jax.vmap(lambda key: floor.goal(key, "ring"))(keys))
    distance = np.linalg.norm(goals, axis=-1)
    assert (distance > nearest - 1e-5).all()
    assert (distance < farthest + 1e-5).all()
    quarters = np.quantile(distance, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quarters, np.linspace(nearest, farthest, 5)[1:4], atol=0.15)
    np.testing.assert_allclose(goals.mean(0), 0, atol=0.5)  # no direction is preferred
    low, high = floor.goal_range
    np.testing.assert_allclose([goals.min(0), goals.max(0)], [low, high], atol=0.05)


# Cells as `routes` numbers them: 0 1 . 2 / 3 . . 4; the lower left one is cut off from the right ones.
SMALL = """
######
#SG#G#
#G##.#
######
"""


def test_routes_count_cells_and_name_the_next_one():
    routes = Maze(SMALL, CELL).routes
    np.testing.assert_allclose(routes.centres / CELL, [(1, 1), (1, 2), (1, 4), (2, 1), (2, 4)])
    no = np.inf
    expected = [
        [0, 1, no, 1, no],
        [1, 0, no, 2, no],
        [no, no, 0, no, 1],
        [1, 2, no, 0, no],
        [no, no, 1, no, 0],
    ]
    np.testing.assert_array_equal(routes.steps, expected)
    assert routes.next[3].tolist() == [0, 0, 3, 3, 3]  # to 1 by way of 0; where there is no way, it stays
    assert routes.next[2, 4] == 4


@pytest.mark.parametrize("xp", [np, jnp])
def test_points_lie_in_the_cell_around_them_and_walls_have_no_number(xp):
    maze = Maze(SMALL, CELL)
    points = np.array([[(1, 1), (1.49, 1.51), (2.4, 3.6)], [(1, 3), (0, 0), (-9, 99)]], np.float32) * CELL
    assert maze.cell_number(xp.asarray(points)).tolist() == [[0, 1, 4], [-1, -1, -1]]


def test_every_way_leads_from_neighbour_to_neighbour_in_as_many_steps(maze):
    routes = maze.routes
    assert np.isfinite(routes.steps).all()  # every free cell can be reached
    cells = np.arange(len(routes.centres))
    here, there = np.meshgrid(cells, cells, indexing="ij")
    onward = routes.next[here, there]
    away = here != there
    assert (routes.steps[onward, there][away] == routes.steps[away] - 1).all()
    np.testing.assert_allclose(
        np.abs(routes.centres[onward] - routes.centres[here]).sum(-1)[away], CELL, rtol=1e-5
    )
    assert (onward[~away] == cells).all()
