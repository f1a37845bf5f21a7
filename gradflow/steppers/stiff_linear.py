"""Linear systems of the stiff stepper, (I - c J) change = residual, and the passes over memory that they consist of.

Each pass has two forms, for numpy and for compiled code. There a sum is never taken in the loop that writes its terms:
the compiler would sum in vectors or not, and so to other bits, by where the arrays happen to lie.
"""

import math

import numpy as np

from gradflow.kernels.calls import call

FAILED, NOT_FINITE, UNFINISHED, SOLVED = 0, 1, 2, 3

_KRYLOV_STEPS = 500


def blend(out, a, x, b, y):
    """Write a x + b y to out, which may be x or y."""
    out[:] = a * x + b * y


def blend_loop(out, a, x, b, y):
    """The same for compiled code."""
    for i in range(out.size):
        out[i] = a * x[i] + b * y[i]


def combine(out, weights, rows):
    """Write the sum of weights times rows to out, which is none of them; two rows in each pass over memory."""
    count = weights.size
    if count == 1:
        blend(out, weights[0], rows[0], 0.0, rows[0])
        return
    blend(out, weights[0], rows[0], weights[1], rows[1])
    for j in range(2, count - 1, 2):
        add_two(out, weights[j], rows[j], weights[j + 1], rows[j + 1])
    if count % 2:
        blend(out, 1.0, out, weights[count - 1], rows[count - 1])


def add_two(out, a, x, b, y):
    """Add a x + b y to out."""
    out += a * x + b * y


def add_two_loop(out, a, x, b, y):
    """The same for compiled code."""
    for i in range(out.size):
        out[i] += a * x[i] + b * y[i]


def quotient(image, direction, slope, factor):
    """Turn the velocity in image into direction + factor (slope - image); return its product with direction."""
    image[:] = direction + factor * (slope - image)
    return np.dot(direction, image)


def quotient_loop(image, direction, slope, factor):
    """The same for compiled code."""
    total = 0.0
    for i in range(image.size):
        image[i] = direction[i] + factor * (slope[i] - image[i])
    for i in range(image.size):
        total += direction[i] * image[i]
    return total


def turn(direction, towards, ratio):
    """Write towards + ratio direction to direction; return its square."""
    direction[:] = towards + ratio * direction
    return np.dot(direction, direction)


def turn_loop(direction, towards, ratio):
    """The same for compiled code."""
    total = 0.0
    for i in range(direction.size):
        direction[i] = towards[i] + ratio * direction[i]
    for i in range(direction.size):
        total += direction[i] * direction[i]
    return total


def descend(change, residual, length, direction, image, weights):
    """Go a length along direction, whose image leaves residual; return the norm and the square of what is left."""
    change += length * direction
    residual -= length * image
    return weighted_norm(residual, weights), np.dot(residual, residual)


def descend_loop(change, residual, length, direction, image, weights):
    """The same for compiled code."""
    total = square = 0.0
    for i in range(change.size):
        change[i] += length * direction[i]
        residual[i] -= length * image[i]
    for i in range(change.size):
        square += residual[i] * residual[i]
        total += (residual[i] * weights[i]) ** 2
    return math.sqrt(total / change.size), square


def defect(residual, c, slope, offset, correction, weights):
    """Write c slope - offset - correction to residual; return its weighted norm and its square."""
    residual[:] = c * slope - offset - correction
    return weighted_norm(residual, weights), np.dot(residual, residual)


def defect_loop(residual, c, slope, offset, correction, weights):
    """The same for compiled code."""
    total = square = 0.0
    for i in range(residual.size):
        residual[i] = c * slope[i] - offset[i] - correction[i]
    for i in range(residual.size):
        square += residual[i] * residual[i]
        total += (residual[i] * weights[i]) ** 2
    return math.sqrt(total / residual.size), square


def inner(x, y):
    """Sum of products."""
    return np.dot(x, y)


def inner_loop(x, y):
    """The same for compiled code."""
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


def apply(matrix, x, out):
    """Write matrix times x to out, which is not x."""
    np.dot(matrix, x, out)


def apply_loop(matrix, x, out):
    """The same for compiled code."""
    for i in range(x.size):
        total = 0.0
        for j in range(x.size):
            total += matrix[i, j] * x[j]
        out[i] = total


def eliminate(matrix, k):
    """Exchange unknown and right side k: done for all k, this turns a matrix into its inverse."""
    pivot = matrix[k, k]
    matrix[k, k] = 1.0
    matrix[k] /= pivot
    column = matrix[:, k].copy()
    column[k] = 0.0
    matrix[:, k] = 0.0
    matrix[k, k] = 1.0 / pivot
    matrix -= np.outer(column, matrix[k])


def eliminate_loop(matrix, k):
    """The same for compiled code."""
    size = matrix.shape[0]
    pivot = matrix[k, k]
    matrix[k, k] = 1.0
    for j in range(size):
        matrix[k, j] /= pivot
    for i in range(size):
        if i != k:
            factor = matrix[i, k]
            matrix[i, k] = 0.0
            for j in range(size):
                matrix[i, j] -= factor * matrix[k, j]


def weighted_norm(x, weights):
    """Root mean square of x times weights."""
    scaled = x * weights
    return math.sqrt(np.dot(scaled, scaled) / x.size)


def weighted_norm_loop(x, weights):
    """The same for compiled code."""
    total = 0.0
    for i in range(x.size):
        total += (x[i] * weights[i]) ** 2
    return math.sqrt(total / x.size)


def may_evaluate(limits, now):
    """Whether the budget allows one more gradient or product; note it if not."""
    if now["gradients"] + now["hessian_products"] < limits.max_gradients:
        return True
    now["spent"] = 1
    return False


def evaluate(rhs, limits, now, t, state, out):
    """Velocity at a point; return the objective, NaN if the budget is spent."""
    if not may_evaluate(limits, now):
        return math.nan
    now["gradients"] += 1
    velocity, chain, numbers, layout, work, coefficients = rhs
    return call(velocity, t, state, out, chain, numbers, layout, work, coefficients)


def multiply(rhs, method, limits, memory, now, t, c, square):
    """Write (I - c J) direction to image, J by a difference quotient or exact, given the square of direction.

    Returns the product of direction and image, NaN where it is not finite.
    """
    m = memory
    now["since_jacobian"] += 1
    now["since_inverse"] += 1
    if not now["exact"]:
        epsilon = now["spacing"] / math.sqrt(square)
        blend(m.trial, 1.0, m.point, epsilon, m.direction)
        value = evaluate(rhs, limits, now, t, m.trial, m.image)
        curvature = quotient(m.image, m.direction, m.slope, c / epsilon)
    elif may_evaluate(limits, now):
        now["hessian_products"] += 1
        value = call(method.product, m.point, m.direction, m.image, rhs.numbers, rhs.layout, rhs.work)
        blend(m.image, 1.0, m.direction, c, m.image)
        curvature = inner(m.direction, m.image)
    else:
        return math.nan
    return curvature if abs(value) < math.inf and abs(curvature) < math.inf else math.nan


def conjugate_gradients(rhs, method, limits, memory, now, t, c, tolerance, left, square):
    """Solve (I - c J) change = residual for symmetric J; fail where the curvature is not positive.

    ``left`` and ``square`` are the weighted norm and the square of the residual.
    """
    m = memory
    m.change[:] = 0.0
    m.direction[:] = 0.0
    before = 1.0
    enough = 0.03 * tolerance
    for _ in range(_KRYLOV_STEPS):
        if left <= enough:
            return SOLVED
        enough = tolerance
        towards = m.residual
        if now["dense"]:
            towards = m.image
            apply(m.inverse, m.residual, towards)
            square = inner(m.residual, towards)
        if not square > 0.0:
            return FAILED
        length = turn(m.direction, towards, square / before)
        curvature = multiply(rhs, method, limits, m, now, t, c, length)
        if not abs(curvature) < math.inf:
            return NOT_FINITE
        if not curvature > 0.0:
            return FAILED
        before = square
        left, square = descend(m.change, m.residual, square / curvature, m.direction, m.image, m.weights)
    return UNFINISHED


def conjugate_residuals(rhs, method, limits, memory, now, t, c, tolerance):
    """Solve (I - c J) change = residual for any J: each step makes the weighted residual least over all directions."""
    m, P, Q = memory, memory.directions, memory.images
    m.change[:] = 0.0
    m.residual[:] = m.residual * m.weights
    root = math.sqrt(m.residual.size)
    for k in range(P.shape[0]):
        if math.sqrt(inner(m.residual, m.residual)) <= (tolerance if k > 0 else 0.03 * tolerance) * root:
            return SOLVED
        m.direction[:] = m.residual / m.weights
        if now["dense"]:
            m.image[:] = m.direction
            apply(m.inverse, m.image, m.direction)
        if not abs(multiply(rhs, method, limits, m, now, t, c, inner(m.direction, m.direction))) < math.inf:
            return NOT_FINITE
        m.image[:] = m.image * m.weights
        for i in range(k):
            shadow = inner(m.image, Q[i])
            blend(m.image, 1.0, m.image, -shadow, Q[i])
            blend(m.direction, 1.0, m.direction, -shadow, P[i])
        length = math.sqrt(inner(m.image, m.image))
        if not length > 0.0:
            return FAILED
        blend(Q[k], 1.0 / length, m.image, 0.0, m.image)
        blend(P[k], 1.0 / length, m.direction, 0.0, m.direction)
        height = inner(m.residual, Q[k])
        blend(m.residual, 1.0, m.residual, -height, Q[k])
        blend(m.change, 1.0, m.change, height, P[k])
    return UNFINISHED


def differentiate(rhs, method, limits, memory, now, t, c):
    """Jacobian at the point, column by column; return whether it is finite."""
    m, J = memory, memory.jacobian
    m.direction[:] = 0.0
    for j in range(m.point.size):
        m.direction[j] = 1.0
        if not abs(multiply(rhs, method, limits, m, now, t, c, 1.0)) < math.inf:
            return False
        blend(m.image, 1.0 / c, m.direction, -1.0 / c, m.image)
        m.direction[j] = 0.0
        for i in range(m.point.size):
            J[i, j] = m.image[i]
            if method.symmetric and i < j:
                J[i, j] = J[j, i] = 0.5 * (J[i, j] + J[j, i])
    now["has_matrix"] = now["fresh"] = 1
    now["inverted"], now["since_jacobian"] = 0.0, 0
    return True


def invert(memory, c):
    """Inverse of I - c J without row exchanges; False where a pivot is not positive."""
    inverse = memory.inverse
    for i in range(inverse.shape[0]):
        blend(inverse[i], -c, memory.jacobian[i], 0.0, memory.jacobian[i])
        inverse[i, i] += 1.0
    for k in range(inverse.shape[0]):
        if not inverse[k, k] > 0.0:
            return False
        eliminate(inverse, k)
    return True


def prepare(rhs, method, limits, memory, now, t, c):
    """Dense matrix for the preconditioner: an old one serves until the products it costs would have paid a new one."""
    if not now["has_matrix"] and not differentiate(rhs, method, limits, memory, now, t, c):
        return NOT_FINITE
    inverted = now["inverted"]
    near = 0.6 * inverted < c < inverted / 0.6
    if inverted == 0.0 or not (near or now["since_inverse"] < method.inverse_after):
        now["inverted"] = 0.0
        if not invert(memory, c):
            return FAILED
        now["inverted"], now["since_inverse"] = c, 0
    return SOLVED


HELPERS = (
    combine, may_evaluate, evaluate, multiply, conjugate_gradients, conjugate_residuals, differentiate, invert, prepare,
)  # fmt: skip
TWINS = (
    (blend, blend_loop), (add_two, add_two_loop), (inner, inner_loop), (weighted_norm, weighted_norm_loop),
    (quotient, quotient_loop), (turn, turn_loop), (descend, descend_loop), (defect, defect_loop), (apply, apply_loop),
    (eliminate, eliminate_loop),
)  # fmt: skip
