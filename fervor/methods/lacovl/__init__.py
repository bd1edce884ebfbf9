"""LaCoVL-FER (arXiv 2605.19821), one file for each part."""
