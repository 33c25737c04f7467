"""What a shell completes: names, without importing what would keep the user waiting."""

from pathlib import Path

# Those of `teacher.tasks`, which takes seconds to import.
TASKS = (
    "ant",
    "ant_big_maze",
    "ant_hardest_maze",
    "ant_u4_maze",
    "ant_u5_maze",
    "fr3_pick_place",
    "fr3_push_easy",
    "fr3_push_hard",
    "fr3_reach",
    "fr3_reach_sensed",
    "humanoid",
    "humanoid_big_maze",
    "humanoid_published",
    "humanoid_u_maze",
    "quad_reach",
    "reacher",
    "wheel_labyrinth",
    "wheel_maze",
)


def presets(incomplete: str) -> list[tuple[str, str]]:
    """Names and what they are."""
    from pipelines.presets import PRESETS

    return [(name, text) for name, (text, _) in PRESETS.items() if name.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """Of this program and of installed packages."""
    from importlib.metadata import entry_points

    names = {*TASKS, *entry_points(group="fathom.tasks").names}
    return sorted(name for name in names if name.startswith(incomplete))


def runs(incomplete: str) -> list[str]:
    """Runs and studies under runs/."""
    found = (
        file.parent.name for kind in ("config.json", "study.json") for file in Path("runs").glob(f"*/{kind}")
    )
    return sorted(name for name in found if name.startswith(incomplete))


def fields(incomplete: str) -> list[tuple[str, str]]:
    """`group.field=` and what it is."""
    from pipelines.config import Config, groups

    return [
        (f"{name}.{field}=", info.description or "")
        for name, group in groups(Config()).items()
        for field, info in type(group).model_fields.items()
        if f"{name}.{field}=".startswith(incomplete)
    ]
