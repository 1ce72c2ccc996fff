"""What kind of object is a piece of furniture? Read off its English name.

A catalogue sorts its pieces by room, which says little of form: a kitchen holds tables and cups.
The head of an English noun stands last, so the last word names the object: a `Glass table` is a
table, a `Table fan` is none. What follows a preposition, and any number, is left out: `Chair with
cushion 2` is a chair.
"""

import re

_WORDS = {
    "chair": "chair armchair stool seat",
    "table": "table desk",
    "sofa": "sofa couch",
    "bed": "bed crib",
    "cabinet": "cabinet wardrobe bookcase shelves cupboard dresser vanity chest locker",
    "lamp": "lamp light lights lantern lamppost spotlight",
    "door": "door",
    "window": "window",
    "plant": "plant tree ficus bamboo tulips cactus bush hedge yucca flowers orchids lily pine "
    "cypress poplar maple acacia spathiphyllum",
    "person": "male female boy girl mannequin",
    "vehicle": "truck sedan car bus van scooter suv bike bicycle motorbike tricycle",
    "vessel": "vase bottle cup glass mug bowl jar teapot pottery pot",
    "appliance": "oven fridge refrigerator freezer stove cooktop cooker microwave mixer blender "
    "toaster machine boiler heater",
    "electronics": "tv screen imac ibook laptop tablet phone iphone radio speaker camera printer "
    "amplifier player",
    "bath": "bath bathtub washbasin basin sink lavatory bidet toilet urinal",
    "plug": "plug switch socket",
}
_CLASS_OF = {word: name for name, words in _WORDS.items() for word in words.split()}
OBJECT_CLASSES = frozenset(_WORDS)

_AFTER_HEAD = re.compile(r"\b(?:with|on|of|under|and|for)\b.*|[^a-z ]+|\b\d+\b")


def object_class(name: str) -> str:
    """Name the class of a piece; "" where its last word is in no class.

    Args:
        name: what the catalogue calls it, in English.
    """
    words = _AFTER_HEAD.sub(" ", name.lower()).split()
    return _CLASS_OF.get(words[-1], "") if words else ""
