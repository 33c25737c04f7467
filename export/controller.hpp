/* Runs a policy on a robot: what controller.py does, over policy.c. C++17, no heap, no dependency.
 *
 *     fathom::Controller controller;  // replays recorded answers; throws fathom::Error if one differs
 *     fathom::CommandLimiter limiter;
 *     fathom::LoopStats stats = fathom::run(controller, limiter, robot, goal, 10.0);
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
#include <cstring>
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

constexpr double rest_speed = 1e-9; /* below which a joint stands: what is left of sums */
constexpr double ahead_s = 5e-3; /* by which a time stamp may lie in the future */

/* What was found, what is allowed. */
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/* Looks at the bits: -ffast-math takes it for granted that no number is NaN or infinite. */
inline bool is_finite(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7f800000u) != 0x7f800000u;
}

template <class Values>
void require_finite(const char *name, const Values &values) {
    for (std::size_t i = 0; i < values.size(); i++) {
        if (!is_finite(values[i])) {
            throw Error(std::string(name) + ": entry " + std::to_string(i) +
                        " is not a finite number; allowed: finite numbers");
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

inline double clipped(double value, double low, double high) {
    return value < low ? low : value > high ? high : value;
}

/* One entry of the command; what each step is for is said at _Joint in controller.py. */
class Entry {
public:
    explicit Entry(std::size_t j = 0) : j_(j) { start(); }

    bool is_known() const { return known_; }

    void start() {
        last_ = up_ = down_ = 0.0;
        is_seen_ = false;
        known_ = kind() != spec::Kind::joint_position && kind() != spec::Kind::gripper_width;
        command_ = is_joint() ? 0.0 : spec::rest[j_];
    }

    void begin(float q) {
        if (kind() != spec::Kind::joint_position || std::fabs(last_) >= rest_speed) return;
        if (known_ && is_seen_ && q == seen_) return;
        command_ = static_cast<double>(q) + spec::position_base[j_];
        known_ = true;
    }

    double next(double wanted, float measured, double ramp) {
        known_ = true;
        if (!is_joint()) return command_ = wanted;
        double q = static_cast<double>(measured) + spec::position_base[j_];
        const bool same = is_seen_ && measured == seen_;
        seen_ = measured;
        is_seen_ = true;
        if (kind() == spec::Kind::joint_position) {
            q = command_;
            wanted = towards(clipped(wanted, spec::lower[j_], spec::upper[j_]) - q);
        } else {
            const double moved = last_ * spec::control_dt;
            up_ = same ? up_ + moved : std::max(moved, 0.0);
            down_ = same ? down_ + moved : std::min(moved, 0.0);
            const double low = q + std::min(down_, 0.0), high = q + std::max(up_, 0.0);
            const double nearest = spec::nearest[j_], farthest = spec::farthest[j_];
            const double to_lower = clipped(0.0, nearest - high, nearest - low);
            const double to_upper = clipped(0.0, farthest - high, farthest - low);
            wanted = clipped(wanted * ramp, towards(to_lower), towards(to_upper));
        }
        const bool inside = spec::lower[j_] <= q && q <= spec::upper[j_];
        const double speed = inside ? spec::velocity[j_] : spec::return_speed[j_];
        return move(clipped(wanted, -speed, speed));
    }

    double hold() {
        if (kind() == spec::Kind::gripper_width) return command_;
        if (!is_joint()) return command_ = spec::rest[j_];
        up_ += last_ * spec::control_dt;
        down_ += last_ * spec::control_dt;
        return move(0.0);
    }

private:
    spec::Kind kind() const { return spec::kind[j_]; }

    bool is_joint() const {
        return kind() == spec::Kind::joint_velocity || kind() == spec::Kind::joint_position;
    }

    double move(double wanted) {
        last_ = clipped(wanted, last_ - spec::change[j_], last_ + spec::change[j_]);
        return command_ = kind() == spec::Kind::joint_position ? command_ + last_ * spec::control_dt : last_;
    }

    double towards(double gap) const {
        const double steps = std::fabs(gap) / (spec::change[j_] * spec::control_dt);
        const double n = std::floor(std::sqrt(2.0 * steps + 0.25) - 0.5);
        const double braked = spec::change[j_] * (steps / (n + 1.0) + n / 2.0);
        return std::copysign(std::min(braked, spec::slowdown[j_] * std::fabs(gap)), gap);
    }

    std::size_t j_;
    double command_ = 0.0, last_ = 0.0, up_ = 0.0, down_ = 0.0;
    float seen_ = 0.0f;
    bool is_seen_ = false, known_ = false;
};

/* Commands that a robot can follow, from a policy's actions: limits of velocity, acceleration and position hold
 * whatever a policy answers and wherever the robot stands. A hold brings joints to rest, and keeps them there;
 * what comes after it begins from the measured position. */
class CommandLimiter {
public:
    explicit CommandLimiter(double ramp_s = 0.5)
        : ramp_steps_(std::max(1.0, std::nearbyint(ramp_s / spec::control_dt))) {
        for (std::size_t j = 0; j < entries_.size(); j++) entries_[j] = Entry(j);
    }

    /* Stands: where the reading says that comes with the next action. */
    void start() {
        steps_ = 0.0;
        held_ = true;
        for (Entry &entry : entries_) entry.start();
    }

    /* Whether a hold has a command: before anything was read, a position that could be held is not known. */
    bool can_hold() const {
        return std::all_of(entries_.begin(), entries_.end(), [](const Entry &each) { return each.is_known(); });
    }

    /* The command, in the specification's unit, once a period; without an action a hold, whatever was read.
     * Throws Error for what is no number, and for a hold before anything was read; the last command stands. */
    const Command &operator()(const Action *action, const Reading &reading) {
        if (!action) {
            if (!can_hold()) throw Error("hold: no position is known yet that could be held");
            steps_ = 0.0;
            held_ = true;
            for (std::size_t j = 0; j < command_.size(); j++) command_[j] = entries_[j].hold();
            return command_;
        }
        Action measured{};
        for (std::size_t j = 0; j < measured.size(); j++) {
            if (spec::position_index[j] >= 0) {
                measured[j] = reading[static_cast<std::size_t>(spec::position_index[j])];
            }
        }
        require_finite("action", *action);
        require_finite("position", measured);
        if (held_) {
            for (std::size_t j = 0; j < measured.size(); j++) entries_[j].begin(measured[j]);
        }
        held_ = false;
        steps_ = std::min(steps_ + 1.0, ramp_steps_);
        for (std::size_t j = 0; j < command_.size(); j++) {
            const double asked = clipped(static_cast<double>((*action)[j]), -1.0, 1.0);
            const double wanted = spec::offset[j] + spec::scale[j] * asked;
            command_[j] = entries_[j].next(wanted, measured[j], steps_ / ramp_steps_);
        }
        return command_;
    }

private:
    double ramp_steps_, steps_ = 0.0;
    bool held_ = true;
    std::array<Entry, POLICY_ACTION_SIZE> entries_;
    Command command_{};
};

struct LoopStats {
    std::int64_t steps = 0;
    std::int64_t held = 0;             /* for want of a fresh reading */
    std::int64_t missed_deadlines = 0; /* periods that were over before their command was written */
    double longest_s = 0.0;            /* from reading to writing */
};

/* Controls a robot at the specification's rate; whatever happens, it is told to stop at the end.
 *
 * `robot` has `Clock::time_point read(Reading &)`, `void write(const Command &)` and `void stop()`; a reading
 * older than `stale_s` when it arrives holds it until a newer one does, with which an episode begins anew.
 * Positions are first commanded once a fresh one arrived. Throws what robot, controller and limiter throw, and
 * Error for a reading from the future. */
template <class Robot>
LoopStats run(Controller &controller, CommandLimiter &limiter, Robot &robot, const Goal &goal, double seconds,
              double stale_s = 2.0 * spec::control_dt) {
    using Seconds = std::chrono::duration<double>;
    LoopStats stats;
    Reading reading{};
    Action action{};
    try {
        controller.reset();
        limiter.start();
        const Clock::time_point start = Clock::now();
        const auto periods = static_cast<std::int64_t>(std::llround(seconds / spec::control_dt));
        for (std::int64_t period = 0; period < periods;) {
            const Seconds due(static_cast<double>(period) * spec::control_dt);
            std::this_thread::sleep_until(start + std::chrono::duration_cast<Clock::duration>(due));
            const Clock::time_point begun = Clock::now();
            const Clock::time_point taken = robot.read(reading);
            const double age = Seconds(Clock::now() - taken).count();
            if (age < -ahead_s) {
                throw Error("reading: its time lies " + std::to_string(-age) +
                            " s in the future; allowed: std::chrono::steady_clock, when it was measured");
            }
            const bool stale = age > stale_s;
            if (stale) action.fill(0.0f);
            if constexpr (spec::last_action >= 0) {
                std::copy(action.begin(), action.end(), reading.begin() + spec::last_action);
            }
            require_finite("reading", reading);
            if (stale) {
                controller.reset();
                if (limiter.can_hold()) robot.write(limiter(nullptr, reading));
            } else {
                controller.step(controller.observe(reading), goal, action);
                robot.write(limiter(&action, reading));
            }
            const Clock::time_point ended = Clock::now();
            stats.longest_s = std::max(stats.longest_s, Seconds(ended - begun).count());
            stats.held += stale;
            stats.steps++;
            const auto passed = static_cast<std::int64_t>(Seconds(ended - start).count() / spec::control_dt);
            const std::int64_t over = std::max<std::int64_t>(0, passed - period);
            stats.missed_deadlines += over;
            period += std::max<std::int64_t>(over, 1);
        }
    } catch (...) {
        robot.stop();
        throw;
    }
    robot.stop();
    return stats;
}

}  // namespace fathom

#endif
