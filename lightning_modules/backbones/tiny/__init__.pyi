from .blip2 import tiny_blip2_processor as tiny_blip2_processor
from .chat_vlm import qwen_processor as qwen_processor
from .llava import tiny_llava_processor as tiny_llava_processor
