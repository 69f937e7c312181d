"""Zero-shot classification of images that lie in a folder for each class, as ImageNet's do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import find_file, load_json, mapping_of, reading, text_in
from datamodules.benchmarks.readers.classes.templates import templates_of, wordings_of
from negatives.tables import InputError, StrPath, quoted

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
IMAGENET_FILES = ("imagenet_classnames.json", "imagenet_class_index.json", "classnames.json")


def read(
    annotations: StrPath,
    *,
    image_root: StrPath | None = None,
    class_names: StrPath | None = None,
    templates: str | Sequence[str] = "plain",
) -> Benchmark:
    """Every image with every class: a class is a folder, its name the folder's with spaces for underscores.

    Args:
        annotations: folder of the class folders.
        image_root: the same folder; may be left out where texts alone are read.
        class_names: JSON that gives names to the folders, see `names_of`.
        templates: see `templates_of`.

    Raises:
        InputError: no class folder, no image, names that do not fit, or a bad template.
    """
    root = Path(annotations if image_root is None else image_root)
    folders = class_folders(root)
    if class_names is None:
        names = {folder: folder.replace("_", " ") for folder in folders}
    else:
        names = names_of(Path(class_names), folders)
    return classified("class_folders", root, names, templates)


def read_imagenet(
    annotations: StrPath, *, image_root: StrPath | None = None, templates: str | Sequence[str] = "imagenet"
) -> Benchmark:
    """ImageNet's validation images, in folders named by WordNet ids; all classes are asked, whatever images are there.

    Args:
        annotations: JSON of the class names, see `names_of`, or its folder.
        image_root: folder of the class folders.
        templates: see `templates_of`.

    Raises:
        InputError: no class folder, no image, names that do not fit, or a bad template.
    """
    path = find_file(annotations, "ImageNet class names", *IMAGENET_FILES)
    root = Path(path.parent if image_root is None else image_root)
    return classified("imagenet", root, names_of(path, class_folders(root)), templates)


def names_of(path: Path, folders: Sequence[str]) -> dict[str, str]:
    """Folder -> class name.

    Args:
        path: JSON of folder -> name, of number -> [folder, name] (Keras, whose names have underscores for spaces), or
            a list of names in the order of the sorted folders, all of which have to be there then.
        folders: the sorted folders.

    Raises:
        InputError: a malformed file, or a folder without a name.
    """
    with reading(path, "class names"):
        data = load_json(path)
        if isinstance(data, list):
            if len(data) != len(folders):
                raise TypeError(f"{len(data)} names in a list for {len(folders)} folders; give folder -> name")
            names = {folder: text_in(data, place, folder) for place, folder in enumerate(folders)}
        else:
            rows = {key: (key, name) if isinstance(name, str) else name for key, name in mapping_of(data).items()}
            names = {text_in(row, 0, key): text_in(row, 1, key) for key, row in rows.items()}
            keras = {row[0] for row in rows.values() if isinstance(row, list)}
            names = {key: name.replace("_", " ") if key in keras else name for key, name in names.items()}
    if unnamed := [folder for folder in folders if folder not in names]:
        raise InputError(f"every class folder must have a name in {path}, {unnamed[0]} has none; add it.")
    return names


def class_folders(root: Path) -> list[str]:
    """The folders in a folder, sorted; hidden ones are none.

    Raises:
        InputError: there is none.
    """
    found = (
        sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".") if root.is_dir() else []
    )
    if not found:
        raise InputError(f"{root} holds no folder of a class; give the folder that holds them.")
    return found


def classified(name: str, root: Path, names: Mapping[str, str], templates: str | Sequence[str]) -> Benchmark:
    """Every image in the folders of classes, with all classes in all templates; a text's id is its folder.

    Classes of one name are in the notes.

    Raises:
        InputError: no image, or a bad template.
    """
    sentences = templates_of(templates)
    found = Collected(name, "classes", root, root)
    for folder, class_name in names.items():
        found.wordings(folder, wordings_of(class_name, sentences))
        for image in sorted((root / folder).rglob("*")) if (root / folder).is_dir() else ():
            if image.suffix.lower() in IMAGES:
                found.add(image_id=found.image(image.relative_to(root).as_posix()), text_id=folder)
    return found.benchmark(notes=_alike(names))


def _alike(names: Mapping[str, str]) -> list[str]:
    """A note on classes of one name, such as ImageNet's two cranes in Keras' list."""
    folders: dict[str, list[str]] = {}
    for folder, name in names.items():
        folders.setdefault(name, []).append(folder)
    alike = [f"{quoted(name)} ({', '.join(own)})" for name, own in folders.items() if len(own) > 1]
    if not alike:
        return []
    more = f", and {len(alike) - 3} more" if len(alike) > 3 else ""
    return [f"classes of one name always tie, so that their images count as wrong: {', '.join(alike[:3])}{more}"]
