"""The published network (arXiv:2503.14858, section 4), one layer after the other, for NumPy and JAX alike.

h_0 = unit(x), h_k = h_(k-1) + factor * unit(unit(unit(unit(h_(k-1))))), and a Dense layer to the outputs;
unit(h) = swish(LayerNorm(h W + b)). The paper's factor is 1."""


def unit(h, kernel, bias, norm_scale, norm_bias):
    return activation(h @ kernel + bias, norm_scale, norm_bias)


def activation(z, norm_scale, norm_bias):
    """swish(LayerNorm(z))"""
    xp = z.__array_namespace__()
    z = (z - z.mean(-1, keepdims=True)) / xp.sqrt(z.var(-1, keepdims=True) + 1e-6)
    z = norm_scale * z + norm_bias
    return z / (1 + xp.exp(-z))


def block(h, layers, factor):
    """One residual block: kernel [4, W, W], and bias, norm_scale and norm_bias [4, W]."""
    branch = h
    for layer in range(4):
        branch = unit(branch, *(leaf[layer] for leaf in layers))
    return h + factor * branch


def stack(h, blocks, factor):
    for number in range(len(blocks[0])):
        h = block(h, [leaf[number] for leaf in blocks], factor)
    return h


def network(params, x, factor, stack=stack):
    entry, norm, leave = params["input"], params["input_norm"], params["output"]
    h = unit(x, entry["kernel"], entry["bias"], norm["scale"], norm["bias"])
    h = stack(h, [params[name] for name in ("kernel", "bias", "norm_scale", "norm_bias")], factor)
    return h @ leave["kernel"] + leave["bias"]
