"""The command line: one call into the stages each, results on standard output.

Nothing heavy is imported before a command runs, so that --help answers at once.
"""

from pipelines.commands import looking, making
from pipelines.commands.options import App

app = App(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Trains a deep goal-conditioned teacher without rewards, distils it into students of a few "
    "layers, and exports an ONNX policy that a robot controller loads.",
    epilog="Start with: pipeline run --preset quickstart",
)
app.add_typer(making.commands)
app.add_typer(looking.commands)


def main() -> None:
    app()
