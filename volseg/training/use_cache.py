"""Let a training read its cases from the preprocessed cache, made now where it is not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.bundle import Bundle
from volseg.errors import BundleError, root_cause
from volseg.training.case_processes import Progress
from volseg.training.chain import RANDOM, Chain, read_chain
from volseg.training.options import Options
from volseg.training.preprocess import Preprocessed, preprocess
from volseg.training.progress import Reporter
from volseg.training.sources import Sources

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

PATCHES, VOLUMES, SAMPLER = (f"volseg.training.patches.{name}" for name in ("CachedPatches", "CachedVolumes", "SeededSampler"))
BATCH = "volseg.training.augmentation.AugmentedBatch"

REPORT_EVERY = 0.1
"""Share of the cases after which a line says how far preprocessing is."""


def read_from_cache(parser: ConfigParser, bundle: Bundle, sources: Sources, options: Options, reporter: Reporter) -> Preprocessed | None:
    """Change a prepared config so that training, and validation where it can, read from the cache.

    ``train#dataset`` becomes :class:`~volseg.training.patches.CachedPatches` with the config's own random transforms, ``validate#dataset``
    :class:`~volseg.training.patches.CachedVolumes` with what validation does after the transforms it shares with training. What volseg puts in stays a config that can be read.

    Parameters
    ----------
    parser : ConfigParser
        Not yet instantiated, with the data of the run filled in.
    bundle : Bundle
        See :func:`~volseg.training.preprocess.preprocess`; its train config is named in messages.
    sources : Sources
        The cases of the run.
    options : Options
        Says where the cache is, and which cases this process validates.
    reporter : Reporter
        Told what is made, or why the cache is not used.

    Returns
    -------
    Preprocessed or None
        None when the config cannot be split; it is then unchanged, and trains as the bundle says.

    Raises
    ------
    DatasetError, BundleError, OutputError, WriteError
        See :func:`~volseg.training.preprocess.preprocess`.
    """
    try:
        chain = read_chain(parser.get(), bundle.train_config or bundle.path)
    except BundleError as error:
        reporter.message(f"without the preprocessed cache: {error}")
        return None
    count = len(sources.training)
    cases, originals = list(sources.training), list(sources.originals[:count])
    if chain.rest_of_validation is not None:
        cases += options.place.share(sources.validation)
        originals += options.place.share(sources.originals[count:])
    folder = None if isinstance(options.cache, bool) else Path(options.cache)
    found = preprocess(cases, chain, bundle, cache=folder, sources=originals, progress=_lines(reporter))
    reporter.message(f"preprocessed cases: {found.made} made, {found.reused} reused, {found.size_on_disk / 1e6:.1f} MB in {found.folder} ({found.seconds:.1f} s)")
    train_from(parser, [str(case.folder) for case in found.cases[:count]], on_batches=runs_on_batches(parser))
    validation = found.cases[count:]
    if validation and all(case.interior is not None for case in validation):
        _validate_from(parser, chain, [str(case.folder) for case in validation])
    return found


def train_from(parser: ConfigParser, entries: Sequence[str], *, on_batches: bool) -> None:
    """Let ``train#dataset`` read entries of the cache, and the loader give each draw a seed of its own.

    Parameters
    ----------
    parser : ConfigParser
        Changed in place.
    entries : sequence of str
        Folders of the cases.
    on_batches : bool
        Whether the random transforms after the crop run on whole batches on the training's device (:mod:`volseg.training.augmentation`), or on patches by stock MONAI.
    """
    dataset: dict[str, Any] = {"_target_": PATCHES, "entries": list(entries), "transform": {"_target_": "Compose", "transforms": f"@{RANDOM}"}}
    if on_batches:
        dataset |= {"transform": {"_target_": "Compose", "transforms": f"$@{RANDOM}[:1]"}, "seeded": True}
        parser["train#trainer#prepare_batch"] = {"_target_": BATCH, "transforms": f"$@{RANDOM}[1:]"}
    parser["train#dataset"] = dataset
    loader = parser.get("train#dataloader")
    if not isinstance(loader, dict) or "batch_sampler" in loader:
        return
    kind = "RandomSampler" if loader.get("shuffle") else "SequentialSampler"
    sampler = loader.get("sampler") or {"_target_": f"torch.utils.data.{kind}", "data_source": "@train#dataset"}
    kept = {name: value for name, value in loader.items() if name not in ("shuffle", "sampler")}
    # Processes that load are kept from one epoch to the next.
    lasting = {"persistent_workers": True} if loader.get("num_workers") else {}
    parser["train#dataloader"] = {**kept, **lasting, "sampler": {"_target_": SAMPLER, "sampler": sampler}}


def runs_on_batches(parser: ConfigParser) -> bool:
    """Whether every random transform after the crop is known to :mod:`volseg.training.augmentation`.

    Raises
    ------
    BundleError
        When one cannot be built.
    """
    from monai.bundle import ConfigParser as Parser

    from volseg.training.augmentation import recognise

    try:
        # A parser of its own: what it builds is thrown away, and the run's is not to be instantiated yet.
        transforms = Parser(dict(parser.get())).get_parsed_content(RANDOM)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        msg = f"`{RANDOM}` could not be set up: {root_cause(error)}; correct the bundle's train config, or what --set put there"
        raise BundleError(msg) from error
    return recognise(transforms[1:]) is not None


def _validate_from(parser: ConfigParser, chain: Chain, entries: list[str]) -> None:
    transform: dict[str, Any] = {"_target_": "Compose", "transforms": list(chain.rest_of_validation or ())}
    parser["validate#dataset"] = {"_target_": VOLUMES, "entries": entries, "transform": transform}


def _lines(reporter: Reporter) -> Progress:
    """A line for every tenth of the cases."""

    def tell(done: int, total: int, name: str) -> None:
        step = max(1, round(REPORT_EVERY * total))
        if done % step == 0 or done == total:
            reporter.message(f"preprocessed {done}/{total} cases ({name})")

    return tell
