from .splits import write_scenes as write_scenes
