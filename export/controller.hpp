/* Runs a policy on a robot: what controller.py does, over policy.c. C++17, no heap, no dependency.
 *
 *     fathom::Controller controller;  // proves the policy on recorded answers, or throws fathom::Error
 *     fathom::Guard guard;
 *     fathom::Outcome outcome = fathom::run(controller, guard, robot, goal, 10.0);
 *
 * specification.hpp, beside this file, holds sizes, limits and recorded answers of the task. Observations,
 * goals, units and joints are as spec.json lists them. One thread.
 */
#ifndef FATHOM_CONTROLLER_HPP
#define FATHOM_CONTROLLER_HPP

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>

#include "policy.h"
#include "specification.hpp"

namespace fathom {

namespace spec = specification;

using Reading = std::array<float, spec::reading_size>;
using Observation = std::array<float, POLICY_OBS_SIZE>;
using Goal = std::array<float, POLICY_GOAL_SIZE>;
using Action = std::array<float, POLICY_ACTION_SIZE>;
using Command = std::array<double, POLICY_ACTION_SIZE>;
using Clock = std::chrono::steady_clock;

/* What was found, what is allowed. */
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class Values>
void require_finite(const char *name, const Values &values) {
    for (std::size_t i = 0; i < values.size(); i++) {
        if (!std::isfinite(values[i])) {
            throw Error(std::string(name) + ": entry " + std::to_string(i) + " is " +
                        std::to_string(values[i]) + "; allowed: finite numbers");
        }
    }
}

class Controller {
public:
    /* Replays the recorded answers; throws Error if one differs. */
    Controller() {
        Action found{};
        for (std::size_t i = 0; i < spec::golden_obs.size(); i++) {
            step(spec::golden_obs[i], spec::golden_goal[i], found);
            for (std::size_t j = 0; j < found.size(); j++) {
                const float error = std::fabs(found[j] - spec::golden_actions[i][j]);
                max_golden_error_ = std::max(max_golden_error_, error);
            }
        }
        if (!(max_golden_error_ <= spec::golden_tolerance)) {
            throw Error("recorded answers are not reproduced: off by " + std::to_string(max_golden_error_) +
                        ", allowed " + std::to_string(spec::golden_tolerance));
        }
    }

    float max_golden_error() const { return max_golden_error_; }

    /* Forgets all readings: the next one begins an episode, and stands for those before it. */
    void reset() { begun_ = false; }

    /* What `step` is asked with after this reading of the sensors, the newest first; once a period. */
    const Observation &observe(const Reading &reading) {
        require_finite("reading", reading);
        const auto size = static_cast<std::ptrdiff_t>(reading.size());
        if (begun_) std::copy_backward(seen_.begin(), seen_.end() - size, seen_.end());
        for (auto age = seen_.begin(); age != (begun_ ? seen_.begin() + size : seen_.end()); age += size) {
            std::copy(reading.begin(), reading.end(), age);
        }
        begun_ = true;
        return seen_;
    }

    /* The action for one period, in [-1, 1]; `actions` is left alone where an Error is thrown. */
    void step(const Observation &obs, const Goal &goal, Action &actions) {
        require_finite("obs", obs);
        require_finite("goal", goal);
        Action answer;
        policy_step(obs.data(), goal.data(), answer.data());
        require_finite("actions", answer);
        actions = answer;
    }

private:
    static_assert(spec::reading_size * spec::history == POLICY_OBS_SIZE, "policy.h is of another task");
    Observation seen_{};
    bool begun_ = false;
    float max_golden_error_ = 0.0f;
};

/* Commands that a robot can follow, from a policy's actions.
 *
 * Velocities begin with a ramp, keep to the joints' limits of velocity and acceleration, and slow down before
 * position limits; positions keep to their limits and move no faster than joints may; others are scaled. */
class Guard {
public:
    explicit Guard(double ramp_s = 0.5)
        : ramp_steps_(std::max(1.0, std::nearbyint(ramp_s / spec::control_dt))) {}

    /* Begins from standing where this reading says the joints are. */
    void start(const Reading &reading) {
        steps_ = 0.0;
        last_.fill(0.0);
        if (spec::kind != spec::Kind::position) return;
        for (std::size_t j = 0; j < last_.size(); j++) last_[j] = position(j, reading);
    }

    /* The command, in the specification's unit; without an action, a hold. Throws Error for no number. */
    const Command &operator()(const Action *action, const Reading &reading) {
        const bool velocities = spec::kind == spec::Kind::velocity;
        if (velocities) steps_ = action ? std::min(steps_ + 1.0, ramp_steps_) : 0.0;
        Command command{};
        for (std::size_t j = 0; j < command.size(); j++) {
            const double held = spec::kind == spec::Kind::position ? last_[j] : 0.0;
            const double wanted = action ? spec::scale[j] * static_cast<double>((*action)[j]) + spec::offset[j] : held;
            command[j] = velocities                            ? velocity(j, wanted, reading)
                         : spec::kind == spec::Kind::position ? placed(j, wanted)
                                                               : wanted;
        }
        require_finite("command", command);
        last_ = command;
        return last_;
    }

private:
    static double position(std::size_t j, const Reading &reading) {
        return static_cast<double>(reading[spec::position_index[j]] + spec::position_base[j]);
    }

    /* NaN passes through, to be found. */
    static double clipped(double value, double low, double high) {
        return value < low ? low : value > high ? high : value;
    }

    double velocity(std::size_t j, double wanted, const Reading &reading) const {
        double v = clipped(wanted * (steps_ / ramp_steps_), -spec::velocity[j], spec::velocity[j]);
        if (spec::slowdown > 0.0) {
            const double ahead = last_[j] * spec::control_dt + position(j, reading);
            if (!std::isfinite(ahead)) return std::numeric_limits<double>::quiet_NaN();
            const double low = spec::slowdown * (spec::lower[j] + spec::margin - ahead);
            const double high = spec::slowdown * (spec::upper[j] - spec::margin - ahead);
            v = clipped(v, std::min(low, spec::return_speed[j]), std::max(high, -spec::return_speed[j]));
        }
        return clipped(v, last_[j] - spec::change[j], last_[j] + spec::change[j]);
    }

    double placed(std::size_t j, double wanted) const {
        const double reach = spec::velocity[j] * spec::control_dt;
        return clipped(clipped(wanted, last_[j] - reach, last_[j] + reach), spec::lower[j], spec::upper[j]);
    }

    double ramp_steps_, steps_ = 0.0;
    Command last_{};
};

/* A histogram of seconds: eight bins to an octave, from 0.1 us on. */
class Latencies {
public:
    void add(double seconds) {
        const double octave = std::log2(std::max(seconds, first) / first);
        counts_[std::min(static_cast<std::size_t>(octave * per_octave), counts_.size() - 1)]++;
        longest_ = std::max(longest_, seconds);
        total_++;
    }

    double longest() const { return longest_; }

    /* Seconds, too large by at most a bin's width, 9 %; NaN before anything was added. */
    double percentile(double share) const {
        if (!total_) return std::numeric_limits<double>::quiet_NaN();
        double seen = 0.0;
        std::size_t bin = 0;
        while (bin + 1 < counts_.size() && (seen += counts_[bin]) < share / 100.0 * total_) bin++;
        return std::min(first * std::exp2(static_cast<double>(bin + 1) / per_octave), longest_);
    }

private:
    static constexpr double first = 1e-7, per_octave = 8.0;
    std::array<std::uint32_t, 256> counts_{};
    double longest_ = 0.0;
    std::uint32_t total_ = 0;
};

struct Outcome {
    std::int64_t steps = 0;
    std::int64_t held = 0;             /* for want of a fresh reading */
    std::int64_t missed_deadlines = 0; /* periods that were over before their command was written */
    Latencies latencies;               /* from reading to writing */
};

/* Controls a robot at the specification's rate; whatever happens, it is told to stop at the end.
 *
 * `robot` has `Clock::time_point read(Reading &)`, `void write(const Command &)` and `void stop()`; a reading
 * older than `stale_s` holds it until a newer one arrives. Throws what robot, controller and guard throw. */
template <class Robot>
Outcome run(Controller &controller, Guard &guard, Robot &robot, const Goal &goal, double seconds,
            double stale_s = 2.0 * spec::control_dt) {
    using Seconds = std::chrono::duration<double>;
    Outcome outcome;
    Reading reading{};
    Action action{};
    try {
        controller.reset();
        robot.read(reading);
        guard.start(reading);
        const Clock::time_point start = Clock::now();
        const auto periods = static_cast<std::int64_t>(std::llround(seconds / spec::control_dt));
        for (std::int64_t period = 0; period < periods;) {
            const Seconds due(static_cast<double>(period) * spec::control_dt);
            std::this_thread::sleep_until(start + std::chrono::duration_cast<Clock::duration>(due));
            const Clock::time_point begun = Clock::now();
            const Clock::time_point taken = robot.read(reading);
            if constexpr (spec::last_action >= 0) {
                std::copy(action.begin(), action.end(), reading.begin() + spec::last_action);
            }
            require_finite("reading", reading);
            const bool stale = Seconds(begun - taken).count() > stale_s;
            if (!stale) controller.step(controller.observe(reading), goal, action);
            robot.write(guard(stale ? nullptr : &action, reading));
            const Clock::time_point ended = Clock::now();
            outcome.latencies.add(Seconds(ended - begun).count());
            outcome.held += stale;
            outcome.steps++;
            const auto passed = static_cast<std::int64_t>(Seconds(ended - start).count() / spec::control_dt);
            const std::int64_t over = std::max<std::int64_t>(0, passed - period);
            outcome.missed_deadlines += over;
            period += std::max<std::int64_t>(over, 1);
        }
    } catch (...) {
        robot.stop();
        throw;
    }
    robot.stop();
    return outcome;
}

}  // namespace fathom

#endif
