"""torchdiffeq with an autograd gradient; torchode with a gradient written by hand."""

from .contender import Contender, Counted, absolute
from .gradients import torch_layers, torch_velocity


def torchdiffeq(method):
    def prepare(case):
        import torch
        from torchdiffeq import odeint

        torch.set_num_threads(1)
        velocity, start = torch_velocity(case), torch.from_numpy(case.theta0)
        times = torch.tensor([0.0, case.t_end], dtype=torch.float64)

        def solve(tolerance):
            field = Counted(velocity, case.cap)
            with torch.no_grad():
                run = odeint(field, start, times, rtol=tolerance, atol=absolute(tolerance), method=method)
            return run[-1].numpy(), field.count

        return solve

    return prepare


def torchode_solver(velocity, tolerance):
    """torchode's Tsit5 with a step of its own for every row of the batch."""
    import torchode

    term = torchode.ODETerm(velocity)
    control = torchode.IntegralController(atol=absolute(tolerance), rtol=tolerance, term=term)
    return torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), control)


def torchode(case):
    import torch
    from torchode import InitialValueProblem

    torch.set_num_threads(1)
    velocity, start = torch_layers(case), torch.from_numpy(case.theta0)[None]
    times = torch.tensor([[0.0, case.t_end]], dtype=torch.float64)

    def solve(tolerance):
        field = Counted(lambda t, rows: velocity(t, rows[0])[None], case.cap)
        with torch.no_grad():
            run = torchode_solver(field, tolerance).solve(InitialValueProblem(y0=start, t_eval=times))
        if run.status.any():
            raise RuntimeError(f"status {run.status.tolist()}")
        return run.ys[0, -1].numpy(), field.count

    return solve


CONTENDERS = [
    Contender("torchdiffeq dopri5, autograd", torchdiffeq("dopri5"), explicit=True),
    Contender("torchdiffeq dopri8, autograd", torchdiffeq("dopri8"), explicit=True),
    Contender("torchode Tsit5, hand-written gradient", torchode, explicit=True),
]
