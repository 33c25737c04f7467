"""An arm behind ros2_control, in a process of its own: joint states in another order, velocities obeyed.

Run as a program: python ros2_peer.py '{"names": ["a"], "q": [0.0], "faults": ["lost"], "goal": [0.4, 0.1]}'.
Ends with its input, and then prints where the joints are."""

import json
import random
import select
import sys
import time

from cyclonedds.domain import DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

from pipelines.robot.messages import (
    NEWEST,
    RELIABLE,
    Float64MultiArray,
    Header,
    JointState,
    Point,
    PointStamped,
    Time,
)

CLOCK = 1234.5  # s, by which this computer's clock is another
LATE_S = 0.15
COMMANDS = "/fr3_reach_velocity/commands"


def stamped(seconds: float, frame: str = "") -> Header:
    return Header(Time(int(seconds), int(seconds % 1 * 1e9)), frame)


def joint_state(names, q, dq, stamp) -> JointState:
    order = random.sample(range(len(names)), len(names))
    return JointState(
        stamped(stamp), [names[i] for i in order], [q[i] for i in order], [dq[i] for i in order], []
    )


def main(names, q, domain=0, rate=50.0, faults=(), goal=None) -> None:
    random.seed(0)
    participant = DomainParticipant(domain)
    states = DataWriter(participant, Topic(participant, "rt/joint_states", JointState), RELIABLE)
    goals = DataWriter(participant, Topic(participant, "rt/goal", PointStamped), RELIABLE)
    commands = DataReader(participant, Topic(participant, f"rt{COMMANDS}", Float64MultiArray), NEWEST)
    dq, names = [0.0] * len(q), [*names, "finger"]
    waiting, step, due = [], 0, time.monotonic()
    while not select.select([sys.stdin], [], [], 0)[0]:
        for message in commands.take(8):
            if message.sample_info.valid_data:
                dq = list(message.data)
        q = [each + velocity / rate for each, velocity in zip(q, dq, strict=True)]
        now = time.time() + CLOCK
        message = joint_state(names, [*q, 0.04], [*dq, 0.0], now)
        fault = random.choice(["", "", *faults]) if step > rate else ""
        if fault == "late":
            waiting.append((now + LATE_S, message))
        elif fault == "missing":
            states.write(joint_state(["finger"], [0.04], [0.0], now))
        elif fault == "nan":
            states.write(joint_state(names, [float("nan")] * 8, [0.0] * 8, now))
        elif fault != "lost":
            states.write(message)
        if fault == "twice":
            states.write(message)
        while waiting and waiting[0][0] < now:
            states.write(waiting.pop(0)[1])
        if goal and step % int(rate / 2) == 0:
            goals.write(PointStamped(stamped(now, "base_link"), Point(*goal)))
        step, due = step + 1, due + 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))
    print(json.dumps(q))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
