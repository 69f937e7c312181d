from .image_rows import ImageRows as ImageRows
from .images import check_images as check_images
from .images import image_path as image_path
from .images import load_image as load_image
from .images import noise_image as noise_image
from .images import part_of as part_of
