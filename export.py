"""Write the student of a finished run as files for phones and servers,
and a card of what each of them costs.

    python export.py runs/RUN --formats litert,litert-int8,onnx

Each file takes raw images and is run again by its own interpreter on the test
images. card.md, card.json and card.png in the run folder put teacher, student
and files side by side: top-1, agreement with the student, bytes, parameters,
multiply-adds and milliseconds. litert-qat is for a run with --quantize;
the formats of LiteRT and ONNX need pip install -r requirements-export.txt. From Python:

    from export import Settings, export
    print(export(Settings(run="runs/RUN", formats="onnx")))
"""

from __future__ import annotations

from settings.export import Settings, read_settings

if __name__ == "__main__":
    # Before TensorFlow is loaded, which takes seconds: --help and mistakes are answered at once.
    GIVEN = read_settings(__doc__ or "")

# isort: split
from experiment.command import quiet  # noqa: F401 (loads TensorFlow)

# isort: split
from experiment.command.main import run
from experiment.export.card import NAMES
from experiment.run.folder import RunFolder
from settings.exporting import export_run, open_run


def main(settings: Settings) -> None:
    """Write the files and print the card, or only say what would be written."""
    if settings.dry_run:
        print(plan(settings))
        return
    print(f"\n{export(settings)}\n")
    print(f"in {settings.run}: {', '.join([*file_names(settings), *NAMES])}")


def export(settings: Settings) -> str:
    """Write the files into the run folder, and return the card as text; with ``dry_run`` only say
    what would be written.

    Raises:
        UserError: there is no such run, a format cannot hold the student, or a file does not
            answer as the student does: the card is written all the same, and that file removed.
    """
    if settings.dry_run:
        return plan(settings)
    formats = settings.checked().create_formats()
    folder = RunFolder(settings.run)
    opened = open_run(folder.path, formats, settings.test_images, **settings.of_host())
    with folder:
        folder.open(folder.settings())
        return export_run(opened, folder, settings.min_agreement)


def plan(settings: Settings) -> str:
    """What would be written. Raises UserError as `export` does before it writes anything."""
    formats = settings.checked().create_formats()
    opened = open_run(settings.run, formats, settings.test_images, **settings.of_host())
    student = opened.networks["student"].model
    return (
        f"{student.name} into {settings.run}: {', '.join(file_names(settings))}; these and "
        f"{', '.join(opened.networks)} are measured on {len(opened.images.test):,} test images of "
        f"{opened.data.name}"
    )


def file_names(settings: Settings) -> list[str]:
    """The names of the files in the run folder."""
    return [form.file for form in settings.create_formats()]


if __name__ == "__main__":
    run(main, GIVEN)
