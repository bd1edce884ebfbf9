"""The command `fervor models`."""

from fervor.errors import DONE, PROBLEM


def models() -> int:
    """List the weights that fervor ships, and what a checkpoint needs."""
    from fervor.artifacts import packaged
    from fervor.artifacts.model_info import SHIPPED, ModelInfo
    from fervor.inference.precision import automatic

    weights = packaged.shipped()
    for weight in weights:
        print(f"{weight.name}\n  licence     {weight.licence}")
        print(f"  data terms  {weight.data_terms}")
        if weight.needs:
            print(f"  made of     {weight.needs}")
        verified = "verified" if weight.intact else "DIFFERS: reinstall fervor"
        print(f"  sha256      {weight.sha256}  {verified}")
    print("\nWhat --precision auto takes on this machine")
    for name, folder in SHIPPED.items():
        precision, why = automatic(ModelInfo.read(folder))
        print(f"  {name:34}  {precision}: {why}")
    print(
        "\nWhat a checkpoint needs\n"
        "  to predict                          model.onnx and model.json (from fervor export)\n"
        "  to evaluate, export and start from  weights.safetensors and model.json; "
        'pip install "fervor[train]"\n'
        "  its text tower                      nothing: its class vectors are inside\n"
        "  frozen towers (method mpa)          found by name and checksum, see model.json; an "
        "export holds them\n"
        "\nWithout what was learned from research data\n"
        "  none of these files: each learned, at least in part, from data that was given for "
        "research\n"
        "  your own pictures alone             fervor train --method classifier --data.name folder "
        "--encoder.weights random\n"
        "                                      on pictures of one face each; then predict --faces "
        "precropped"
    )
    return DONE if all(weight.intact for weight in weights) else PROBLEM
