"""Images with labels: data sets by name, splits that match the hierarchy, batches that paired runs share."""

from hiercnn.data import _cifar, _fashion_mnist, _folder, _manifest, _synthetic_source, _timm  # noqa: F401  register the data sets
from hiercnn.data._dataset import from_datasets
from hiercnn.data._image_set import ImageSet, Source, in_memory, members, open_image
from hiercnn.data._loader import Batch, BatchLoader, SampleLoader, generator, keyed_seed, make_loader, named_transform
from hiercnn.data._mix import Mixer
from hiercnn.data._prepare import Data, match, prepare
from hiercnn.data._registry import cache_folder, data_sets
from hiercnn.data._relabel import groups_to_relabel, wrong_labels
from hiercnn.data._settings import Augment, DataSettings, Mix

__all__ = [
    "Augment",
    "Batch",
    "BatchLoader",
    "Data",
    "DataSettings",
    "ImageSet",
    "Mix",
    "Mixer",
    "SampleLoader",
    "Source",
    "cache_folder",
    "data_sets",
    "from_datasets",
    "generator",
    "groups_to_relabel",
    "in_memory",
    "keyed_seed",
    "make_loader",
    "match",
    "members",
    "named_transform",
    "open_image",
    "prepare",
    "wrong_labels",
]
