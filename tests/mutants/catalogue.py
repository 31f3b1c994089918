"""The faults, file by file. To add one, add a line: what is replaced must occur once in its file."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault."""

    file: str  # of the package
    old: str
    new: str
    why: str  # what is wrong with it, in a few words
    equivalent: str = ""  # if no test can find it, why
    found_by: str = ""  # the topic of the tests that should find it, if another than its file's

    def mutated(self, root: Path) -> str:
        """
        Put the fault into the source.

        :param root: of the repository
        :return: the source with the fault
        """
        return (root / "sb3_forward" / self.file).read_text().replace(self.old, self.new)

    def check(self, root: Path) -> None:
        """
        Refuse a fault that no longer has its place.

        :param root: of the repository
        :raises ValueError: if the text to replace is not there, or more than once
        """
        found = (root / "sb3_forward" / self.file).read_text().count(self.old)
        if found != 1:
            raise ValueError(f"In {self.file}, {self.old!r} occurs {found} times, not once: mend the mutant ({self.why}).")

    def apply(self, root: Path) -> None:
        """
        Write the fault into a copy of the package.

        :param root: folder of the copy
        """
        source = self.mutated(root)
        (root / "sb3_forward" / self.file).write_text(source)


# All tests of the method, by topic; those of a file's priorities come first
TESTS = (
    "phases",
    "targets",
    "guided",
    "hidden_phase",
    "oracle",
    "heads",
    "local_learning",
    "evaluation",
    "blocks",
    "distances",
    "run",
    "save_load",
    "own_policies",
    "own_heads",
    "own_buffers",
    "hostile_envs",
)
PRIORITIES: dict[str, Sequence[str]] = {
    "a2c.py": ("heads", "phases", "oracle"),
    "heads/agreement.py": ("own_policies", "own_heads"),
    "rollouts/anchors.py": ("phases", "local_learning"),
    "local/blocks.py": ("blocks", "phases"),
    "heads/gradients.py": ("heads", "phases", "local_learning"),
    "local/distances.py": ("distances", "targets"),
    "heads/evaluation.py": ("evaluation", "phases"),
    "rollouts/checks.py": ("hostile_envs", "bad_input"),
    "heads/heads.py": ("phases", "heads", "local_learning", "evaluation"),
    "rollouts/recorder.py": ("evaluation", "own_policies", "local_learning"),
    "local/loss.py": ("guided", "hidden_phase", "images"),
    "local/network.py": ("network", "own_policies"),
    "on_policy.py": ("phases", "targets", "evaluation"),
    "local/optimizers.py": ("own_policies", "save_load"),
    "rollouts/pending.py": ("local_learning", "phases"),
    "local/phase.py": ("hidden_phase", "targets", "phases"),
    "ppo.py": ("heads", "phases", "oracle"),
    "heads/whitening.py": ("phases", "local_learning"),
}

A2C = "a2c.py"
AGREEMENT = "heads/agreement.py"
ANCHORS = "rollouts/anchors.py"
BLOCKS = "local/blocks.py"
CLOSED_FORM = "heads/gradients.py"
DISTANCES = "local/distances.py"
EVALUATION = "heads/evaluation.py"
FINITE = "rollouts/checks.py"
GUIDED = "local/loss.py"
HEADS = "heads/heads.py"
FINGERPRINT = "local/fingerprint.py"
LATENTS = "rollouts/recorder.py"
MAPS = "local/loss.py"
NETWORK = "local/network.py"
SPLITTING = "local/splitting.py"
ON_POLICY = "on_policy.py"
OPTIMIZERS = "local/optimizers.py"
PENDING = "rollouts/pending.py"
PHASE = "local/phase.py"
PPO = "ppo.py"
WHITENING = "heads/whitening.py"

REMEMBER = """\
        if steps is not None:
            self.heads.remember_steps(rollout.latent_vf, steps)
"""
HIDDEN = """\
        if enough is not None:
            features = self._hidden_phase(enough)
            # The last rows are those of this rollout
            actor, critic = (feature[-len(rollout.returns) :] for feature in features)
            rollout = rollout._replace(latent_pi=actor, latent_vf=critic)
"""
VALUES = """\
        if values_learn:
            self.heads.fit_values(rollout.latent_vf, self._value_targets(rollout), remembered=steps is not None)
"""
HEADS_LAST = """\
        with self.heads.training(rollout, self.whiten_heads, observations) as whitened:
            self._head_phase(whitened)
"""
CARRY = "self.heads.memory.carry(join(before)[1], join(after)[1])"
EXCHANGE = """\
            self.heads.exchange(features, *self.anchors.exchange(enough.number, enough.observations))
            self.heads.memory.release()  # the anchors hold the values now
"""
TRAIN_THEN_RUN = """\
                if block.optimizer is not None:
                    self._train_block(index, feed, rows, signals.get(block.role))
                feed.advance(index)
"""
RUN_THEN_TRAIN = """\
                feed.advance(index)
                if block.optimizer is not None:
                    self._train_block(index, feed, rows, signals.get(block.role))
"""
LEARN = """\
        try:
            for index, block in enumerate(self.network.steps):
                if block.optimizer is not None:
                    self._train_block(index, feed, rows, signals.get(block.role))
                feed.advance(index)
        except ValueError as error:
            # No learning rate mends a weight that has come so from elsewhere
            if (problem := parameter_problem(self.network.policy)) is not None:
                raise ValueError(f"{problem}.") from error
            raise
"""
TOPS = "        latents = feed.tops()\n"

MUTANTS = [
    # === The policy that acts is the one that is trained ===
    Mutant(
        ON_POLICY,
        "        rollout, recorded = self._checked(rollout, observations, recorded)\n",
        "",
        "heads not tried",
        found_by="own_policies",
    ),
    # === Buffers of the user's own ===
    Mutant(
        ON_POLICY,
        "        if _hands_out_as_sb3(self.rollout_buffer):\n",
        "        if True:\n",
        "a buffer of one's own passed by",
        found_by="own_buffers",
    ),
    Mutant(
        ON_POLICY,
        "observations = partial(pick, samples.observations)",
        "pass",
        "other observations than were handed out",
        found_by="own_buffers",
    ),
    # === Cutting the network ===
    Mutant(
        SPLITTING,
        "numbers[node] = max(below)",
        "numbers[node] = min(below)",
        "what joins two goes to the lower",
        found_by="network",
    ),
    Mutant(
        SPLITTING,
        "isinstance(root.get_submodule(str(node.target)), nn.LayerNorm)",
        "False",
        "a LayerNorm starts a block",
        found_by="network",
    ),
    Mutant(
        SPLITTING,
        "if _starts(root, node, parameters) or (below and joins):",
        "if _starts(root, node, parameters):",
        "branches joined in the last one's block",
        found_by="network",
    ),
    Mutant(
        SPLITTING,
        "[value.clone() for value in values] if self.spared else values",
        "values",
        "inputs written to",
        found_by="network",
    ),
    Mutant(
        SPLITTING,
        'role = next(iter(roles)) if len(roles) == 1 else "shared"',
        "role = sorted(roles)[0]",
        "shared blocks guided by the actor alone",
        found_by="network",
    ),
    Mutant(
        SPLITTING,
        "        if _told(node) != _told(other):\n",
        "        if False:\n",
        "training taken for rest",
        found_by="network",
    ),
    Mutant(
        SPLITTING,
        "if crosses and [_rows(value[node]) for value in values] != list(ROWS):",
        "if False:",
        "columns for rows",
        found_by="network",
    ),
    Mutant(
        SPLITTING,
        "if not all(_is_true(root, found, rows) for rows in observations):",
        "if False:",
        "parts not tried",
        found_by="network",
    ),
    Mutant(
        SPLITTING,
        '    opaque.update({module: "it has hooks"',
        '    ({module: "it has hooks"',
        "hooks left out",
        found_by="network",
    ),
    Mutant(SPLITTING, "    _use_once(root, graph)\n", "", "shared modules run twice", found_by="network"),
    Mutant(SPLITTING, "            merge(*sorted((owner, numbers[node])))\n", "", "weights in two blocks", found_by="network"),
    Mutant(SPLITTING, "for user in list(node.users)[1:]:", "for user in []:", "sizes handed on", found_by="network"),
    Mutant(
        SPLITTING,
        "return layer or module in",
        "return module in",
        "layers of one's own traced",
        found_by="phases",
    ),
    Mutant(
        SPLITTING,
        "    if not keeps_extraction(policy):\n        return observations\n",
        "",
        "preprocessed twice",
        found_by="network",
    ),
    Mutant(
        NETWORK,
        "[id(module), *module._forward_hooks, *module._forward_pre_hooks]",
        "[id(module)]",
        "new hooks not seen",
        found_by="network",
    ),
    Mutant(
        ON_POLICY,
        'for name in ("pending", "values"):',
        "for name in ():",
        "features of another network kept",
        found_by="network",
    ),
    Mutant(NETWORK, "found += [id(module), ", "found += [0, ", "exchanged modules not seen", found_by="network"),
    # === The order of things, and what goes where ===
    Mutant(ON_POLICY, HIDDEN + VALUES + HEADS_LAST, HEADS_LAST + HIDDEN + VALUES, "head phase before the hidden phase"),
    Mutant(ON_POLICY, HIDDEN + VALUES + HEADS_LAST, VALUES + HIDDEN + HEADS_LAST, "values fitted before the hidden phase"),
    Mutant(
        ON_POLICY,
        "rollout = rollout._replace(latent_pi=actor, latent_vf=critic)",
        "pass",
        "old features to the heads",
        found_by="hidden_phase",
    ),
    Mutant(
        ON_POLICY,
        "latent_pi=actor, latent_vf=critic)",
        "latent_pi=actor)",
        "old features to the values",
        found_by="hidden_phase",
    ),
    Mutant(
        ON_POLICY,
        REMEMBER + HIDDEN,
        HIDDEN + REMEMBER,
        "steps remembered by features of which the ends are old",
        found_by="evaluation",
    ),
    Mutant(
        ON_POLICY,
        "            self.heads.remember_steps(rollout.latent_vf, steps)\n",
        "            if enough is None:\n                self.heads.remember_steps(rollout.latent_vf, steps)\n",
        "steps of a rollout with a hidden phase forgotten",
        found_by="evaluation",
    ),
    Mutant(
        ON_POLICY,
        "feature[-len(rollout.returns) :]",
        "feature[: len(rollout.returns)]",
        "features of rows that have waited",
        found_by="hidden_phase",
    ),
    Mutant(
        ON_POLICY,
        'if self.hidden_training != "local" or not self.network.blocks:',
        "if not self.network.blocks:",
        "frozen layers trained",
        found_by="local_learning",
    ),
    Mutant(ON_POLICY, "self.guidance_coef > 0\n", "self.guidance_coef > 1\n", "never guided"),
    Mutant(
        ON_POLICY,
        "values_learn = self.vf_coef * self._head_learning_rate() > 0",
        "values_learn = True",
        "values fitted without a coefficient",
    ),
    Mutant(
        ON_POLICY,
        "steps = self._steps(rollout) if values_learn and recorded else None",
        "steps = None",
        "nothing remembered",
    ),
    Mutant(
        ON_POLICY, "[(rollout.latent_pi, rollout.latent_vf)])", "[(rollout.latent_vf, rollout.latent_pi)])", "features swapped"
    ),
    Mutant(
        ON_POLICY, "explained_variance(values, returns)", "explained_variance(returns, values)", "explained variance swapped"
    ),
    Mutant(
        ON_POLICY, "th.exp(self.policy.log_std).mean()", "self.policy.log_std.mean()", "logarithm logged for the deviation"
    ),
    Mutant(
        ON_POLICY,
        'n_updates", self._n_updates,',
        'n_updates", self._n_updates + 1,',
        "one update too many logged",
        found_by="oracle",
    ),
    # === Learning rates and the state of optimizers ===
    Mutant(
        ON_POLICY, "return self.head_learning_rate_scale * self._learning_rate()", "return self._learning_rate()", "no scale"
    ),
    Mutant(
        ON_POLICY,
        "set_learning_rates(self._head_learning_rate(), self._spread_learning_rate())",
        "set_learning_rates(self._spread_learning_rate(), self._head_learning_rate())",
        "learning rates of the heads swapped",
        found_by="heads",
    ),
    Mutant(
        ON_POLICY, "self._update_learning_rate(self.policy.optimizer)", "pass", "learning rate not updated", found_by="phases"
    ),
    Mutant(
        ON_POLICY,
        "self.heads.optimizer.state = self.policy.optimizer.state",
        "pass",
        "state of the heads not shared",
        found_by="save_load",
    ),
    Mutant(
        ON_POLICY,
        "block.optimizer.state = self.policy.optimizer.state",
        "pass",
        "state of the blocks not shared",
        found_by="save_load",
    ),
    Mutant(
        ON_POLICY,
        "update_learning_rate(block.optimizer, self._local_learning_rate())",
        "pass",
        "local rate never set",
        found_by="local_learning",
    ),
    Mutant(
        ON_POLICY,
        "update_learning_rate(block.optimizer, self._local_learning_rate())",
        "update_learning_rate(block.optimizer, self._head_learning_rate())",
        "blocks at the rate of the heads",
        found_by="local_learning",
    ),
    Mutant(
        ON_POLICY, "self.lr_schedule(self._current_progress_remaining), 0.0)", "self.lr_schedule(1.0), 0.0)", "no schedule"
    ),
    Mutant(
        ON_POLICY,
        "self.local_lr_schedule(self._current_progress_remaining)",
        "self.local_lr_schedule(1.0)",
        "no local schedule",
        found_by="local_learning",
    ),
    # === Guidance ===
    Mutant(
        ON_POLICY,
        "rollout.actions, advantages)\n",
        "rollout.actions, -advantages)\n",
        "guidance by minus the advantage",
        found_by="targets",
    ),
    Mutant(
        ON_POLICY, 'return {"actor": actor, "critic": critic}', 'return {"actor": critic, "critic": actor}', "signals swapped"
    ),
    Mutant(
        ON_POLICY, "critic = rollout.returns[:, None]", "critic = rollout.advantages[:, None]", "critic guided by advantages"
    ),
    Mutant(
        ON_POLICY,
        "(rollout.advantages.std(correction=0) + 1e-8)",
        "1.0",
        "advantages of the guidance not scaled",
        found_by="targets",
    ),
    Mutant(
        ON_POLICY, "(rollout.advantages - rollout.advantages.mean())", "rollout.advantages", "nor centred", found_by="targets"
    ),
    Mutant(PHASE, "signal[part]", "signal[: len(part)]", "guidance of other rows"),
    Mutant(PHASE, "signals.get(block.role)", 'signals.get("actor")', "all blocks guided as the actor's"),
    Mutant(
        PHASE,
        "th.cat([signal * math.sqrt(columns / signal.shape[1]) for signal in signals.values()], dim=1)",
        'signals["actor"]',
        "shared blocks guided by the actor alone",
    ),
    Mutant(PHASE, "math.sqrt(columns / signal.shape[1])", "1.0", "shared blocks guided by the number of columns"),
    Mutant(PHASE, "math.sqrt(columns / signal.shape[1])", "math.sqrt(1 / signal.shape[1])", "shared blocks guided less"),
    Mutant(PHASE, "standardise(signal) for", "signal for", "guidance as it comes"),
    Mutant(ON_POLICY, "rows.number, rows.signals)", "rows.number, {})", "signals not handed on"),
    # === The guided loss ===
    Mutant(GUIDED, "mul_(-2 /", "mul_(2 /", "sign of the gradient"),
    Mutant(GUIDED, "mul_(-2 /", "mul_(-1 /", "half of the gradient"),
    Mutant(GUIDED, "max(residual.numel(), 1)", "max(len(residual), 1)", "no mean over columns"),
    Mutant(GUIDED, "th.addmm(image.intercept, outputs, image.weights)", "outputs @ image.weights", "no intercept"),
    Mutant(GUIDED, "-mean @ weights", "mean @ weights", "sign of the intercept"),
    Mutant(GUIDED, "penalty = ridge * rows +", "penalty = ridge * gram.diagonal().mean() +", "penalty relative to outputs"),
    Mutant(GUIDED, "penalty = ridge * rows +", "penalty = ridge +", "penalty that counts as one row"),
    Mutant(GUIDED, " + 8 * th.finfo(gram.dtype).eps * gram.diagonal().sum()", "", "penalty below rounding errors"),
    Mutant(GUIDED, "centred = outputs - mean ", "centred = outputs ", "outputs not centred"),
    Mutant(GUIDED, "matched + penalty * weights.square().sum() / total", "matched", "explained less the penalty"),
    Mutant(GUIDED, "centred = guidance - guidance.mean(dim=0)", "centred = guidance", "standardised without centring"),
    Mutant(GUIDED, ".mean(dim=0).sqrt()", ".mean(dim=0)", "variance for the deviation"),
    Mutant(GUIDED, "varies = deviation > rounding", "varies = deviation > 0", "rounding noise guides"),
    Mutant(GUIDED, ".clamp_min(th.finfo(guidance.dtype).tiny)", "", "divided by guidance that does not vary"),
    # === The hidden phase ===
    Mutant(PHASE, LEARN + TOPS, TOPS + LEARN, "top features of before"),
    Mutant(PHASE, TRAIN_THEN_RUN, RUN_THEN_TRAIN, "blocks above learn on what the one below said before"),
    Mutant(
        PHASE,
        "            image = None\n            if signal is not None and self.objective.guidance_coef > 0:",
        "            image = image if steps else None\n"
        "            if signal is not None and self.objective.guidance_coef > 0 and image is None:",
        "image fitted once",
    ),
    Mutant(
        PHASE,
        "linear_image(join(list(outputs)), signal)",
        "linear_image(join(list(outputs))[: self.batch_size], signal[: self.batch_size])",
        "image fitted to some rows",
    ),
    Mutant(PHASE, "own_loss.lerp(loss, coef)", "own_loss.lerp(loss, 1 - coef)", "loss by one minus the coefficient"),
    Mutant(PHASE, "own_gradient.lerp(gradient, coef)", "own_gradient.lerp(gradient, 1 - coef)", "one minus the coefficient"),
    Mutant(PHASE, "if (coef := self.objective.guidance_coef) < 1:", "if (coef := 1.0) < 1:", "guided alone"),
    Mutant(
        PHASE,
        "(DISPARITIES[self.disparity](Configuration(inputs).distances))",
        "(Configuration(inputs).distances)",
        "no disparity",
    ),
    Mutant(PHASE, "feed.inputs(index, part)", "feed.inputs(index, slice(0, len(part)))", "the first rows alone"),
    Mutant(PHASE, "th.randperm(rows, device", "th.arange(rows, device", "rows not shuffled", found_by="phases"),
    Mutant(PHASE, "for _ in range(self.epochs):", "for _ in range(1):", "one pass"),
    Mutant(PHASE, ".split(min(self.batch_size, rows))", ".split(rows)", "one minibatch"),
    Mutant(
        PHASE, ".split(min(self.batch_size, rows))", ".split(self.batch_size)", "too large a minibatch", found_by="properties"
    ),
    Mutant(PHASE, "LEAST_ROWS = 3", "LEAST_ROWS = 2", "pairs matched", found_by="phases"),
    Mutant(PHASE, "if len(part) >= LEAST_ROWS:", "if len(part) > LEAST_ROWS:", "three rows not matched", found_by="phases"),
    Mutant(PHASE, "*local_loss(rows), self.max_grad_norm", "*local_loss(rows), 1e9", "steps not clipped", found_by="phases"),
    Mutant(
        PHASE,
        "self.network.policy.set_training_mode(True)\n            for",
        "pass\n            for",
        "learning at rest",
    ),
    Mutant(
        PHASE,
        "self.network.policy.set_training_mode(False)\n        if steps",
        "pass\n        if steps",
        "outputs in training mode after the steps",
    ),
    Mutant(
        PHASE,
        "self.network.policy.set_training_mode(False)\n        feed",
        "pass\n        feed",
        "outputs in training mode before the steps",
    ),
    Mutant(
        PHASE,
        "        self.network.policy.set_training_mode(True)\n        return latents",
        "        return latents",
        "training mode not restored",
    ),
    Mutant(PHASE, "[parameter.clone() for parameter in block.parameters]", "list(block.parameters)", "no movement recorded"),
    Mutant(PHASE, "th.stack([(new - old).norm()", "th.stack([new.norm()", "norm recorded for the movement"),
    Mutant(
        PHASE, "(change / th.stack([old.norm() for old in before]).norm()", "(change / before[0].norm()", "another unit of it"
    ),
    Mutant(PHASE, "sum(losses) / len(steps)", "losses[-1]", "the last loss recorded"),
    Mutant(PHASE, "sum(norms) / len(steps)", "min(norms)", "the least norm recorded"),
    Mutant(PHASE, "explained = image.explained", "explained = image.loss", "loss recorded for R2"),
    Mutant(
        PHASE,
        "if (problem := parameter_problem(self.network.policy)) is not None:",
        "if (problem := None) is not None:",
        "a weight that is not finite not named",
        found_by="bad_input",
    ),
    # === What is compared of feature maps ===
    Mutant(MAPS, "activations.ndim == 4", "False", "feature maps read number by number", found_by="images"),
    Mutant(MAPS, "return F.adaptive_avg_pool2d(", "return height * width * F.adaptive_avg_pool2d(", "sums of feature maps"),
    Mutant(
        MAPS,
        "gradient.view(len(gradient), self.channels, -1)",
        "gradient.view(len(gradient), -1, self.channels).mT",
        "weights of other feature maps",
    ),
    Mutant(MAPS, "(min(grid, height), min(grid, width))", "(1, 1)", "grid ignored"),
    Mutant(
        MAPS,
        "(min(grid, height), min(grid, width))",
        "(min(grid, height), min(grid, height))",
        "as many columns of cells as rows",
    ),
    Mutant(
        MAPS,
        "maps.reshape(len(maps), self.channels, -1)",
        "maps.reshape(len(maps), -1, self.channels).mT",
        "means of other channels",
    ),
    Mutant(MAPS, "@ self.weights.T)", "@ th.ones_like(self.weights.T))", "gradients of all cells at every place"),
    Mutant(MAPS, "@ self.weights.T)", "@ (self.weights.T > 0).to(gradient.dtype))", "gradients of sums"),
    Mutant(
        BLOCKS,
        "gradient = summary.pull(gradient)",
        "gradient = as_matrix(th.ones_like(outputs)) * gradient.mean()",
        "one gradient for all places of feature maps",
        found_by="images",
    ),
    Mutant(
        SPLITTING,
        "        _flatten_late(graph, numbers, values[0])\n",
        "",
        "maps flattened by the layer that gives them",
        found_by="images",
    ),
    Mutant(
        SPLITTING,
        "if flattens and numbers[node] not in users",
        "if numbers[node] not in users",
        "all that is made of maps goes to who reads it",
        found_by="images",
    ),
    Mutant(
        SPLITTING,
        "users.pop() if len(users) == 1 and math.inf not in users else numbers[node] + 0.5",
        "users.pop()",
        "maps flattened for one of their readers",
        found_by="images",
    ),
    Mutant(SPLITTING, "        _keep_together(numbers, values[0])\n", "", "a tuple handed on", found_by="network"),
    # === What is held, and what is computed anew ===
    Mutant(
        NETWORK,
        "min(first + network.pass_rows, rows)",
        "min(first + network.pass_rows - 1, rows)",
        "the last row of a forward pass left out",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "min(first + network.pass_rows, rows)",
        "min(first + network.pass_rows + 1, rows)",
        "a row in two forward passes",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "range(0, rows, network.pass_rows)",
        "range(0, rows, network.pass_rows + 1)",
        "rows between forward passes left out",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "th.arange(rows.start, rows.stop)",
        "th.arange(rows.stop - rows.start)",
        "the first rows in every forward pass",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "if rows * network.row_bytes <= budget:",
        "if True:",
        "observations held whatever they take",
        found_by="images",
    ),
    Mutant(NETWORK, "* len(self.chunks) > left:", "* 0 > left:", "outputs held whatever they take", found_by="images"),
    Mutant(NETWORK, "* len(self.chunks) > left:", "> left:", "one forward pass taken for all", found_by="images"),
    Mutant(
        NETWORK,
        "left = self.budget - sum(value.nbytes for value in self._held.values())",
        "left = self.budget",
        "what is held already not counted",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "        self._held = {name: value for name, value in self._held.items() if name in needed}\n",
        "",
        "held to the end",
        found_by="hidden_phase",
    ),
    Mutant(NETWORK, "[*readers, *self.network.tops]", "readers", "tops not held", found_by="images"),
    Mutant(
        NETWORK,
        "for later in self.network.parts[index + 1 :]",
        "for later in self.network.parts[index + 1 : index + 2]",
        "only what the next part reads is held",
        equivalent="every part leads to the top features, and what they are made of is held",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "return held.union(*(self._needed(self.network.parts[maker].inputs) for maker in makers))",
        "return held",
        "what others are computed from not held",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "            self.network.policy.set_training_mode(False)\n            for name",
        "            for name",
        "layers that run anew are learning",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "            self.network.policy.set_training_mode(training)\n",
        "",
        "steps at rest after layers that run anew",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "            found[name] = self._held[name][rows]\n",
        "            found[name] = self._held[name][: len(self._held[name][rows])]\n",
        "layers run anew on the first rows",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "self._values(self.network.tops, rows)) for rows in self.chunks]",
        "self._values(self.network.tops, rows)) for rows in reversed(self.chunks)]",
        "top features in another order",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "found.update(self._by_name(part.outputs, given))",
        "found[name] = given[0] if len(part.outputs) > 1 else given",
        "the first of several outputs for each",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "max(min(PASS_ROWS, pass_bytes // self.row_bytes), 1)",
        "min(PASS_ROWS, pass_bytes // self.row_bytes)",
        "no row of large images to a pass",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "max(min(PASS_ROWS, pass_bytes // self.row_bytes), 1)",
        "PASS_ROWS",
        "as many images to a pass as vectors",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "max(min(PASS_ROWS, pass_bytes // self.row_bytes), 1)",
        "max(pass_bytes // self.row_bytes, 1)",
        "any number of vectors to a pass",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "sum(part.nbytes for part in leaves(sample(policy, 1)))",
        "leaves(sample(policy, 1))[-1].nbytes",
        "bytes of one key for all",
        found_by="images",
    ),
    Mutant(ON_POLICY, "budget=self.local_memory * 2**20", "budget=2**26", "local_memory not handed on", found_by="images"),
    Mutant(
        ON_POLICY, "budget=self.local_memory * 2**20", "budget=self.local_memory", "local_memory in bytes", found_by="images"
    ),
    Mutant(
        ON_POLICY,
        "buffer.observations, places), self.device)",
        "buffer.observations.astype(np.float32), places), self.device)",
        "images kept as floats",
        found_by="images",
    ),
    # === Steps in parts ===
    Mutant(
        PHASE,
        "            share = len(part) / len(rows)\n",
        "            share = 1.0\n",
        "parts of a minibatch with weight one",
        found_by="images",
    ),
    Mutant(
        PHASE, "loss = loss + share * own_loss", "loss = own_loss", "loss of the last part of a minibatch", found_by="images"
    ),
    Mutant(
        PHASE,
        "gradients = own if gradients is None else _sum(gradients, own)",
        "gradients = own",
        "gradients of the last part of a minibatch",
        found_by="images",
    ),
    Mutant(
        PHASE,
        "block.step((), loss, gradients, self.max_grad_norm)",
        "block.step((), loss, gradients, 1e9)",
        "steps in parts not clipped",
        found_by="images",
    ),
    Mutant(
        PHASE,
        "separate = image is not None and self.objective.guidance_coef == 1 and",
        "separate = image is not None and",
        "pairs of rows compared in parts",
        found_by="images",
    ),
    Mutant(
        PHASE,
        "separate = image is not None and self.objective.guidance_coef == 1 and",
        "separate = self.objective.guidance_coef == 1 and",
        "unguided losses in parts",
        found_by="images",
    ),
    Mutant(PHASE, " and not block.has_batch_norm\n", "\n", "BatchNorm on parts of a minibatch", found_by="images"),
    Mutant(
        BLOCKS,
        "isinstance(own, _BatchNorm) for own in self.module.modules()",
        "isinstance(own, nn.BatchNorm1d) for own in self.module.modules()",
        "BatchNorm of maps not seen",
        found_by="images",
    ),
    Mutant(
        PHASE,
        "if len(rows) <= self.network.pass_rows or not separate:",
        "if True:",
        "minibatches of images in one pass",
        found_by="images",
    ),
    Mutant(
        PHASE,
        "        latents = feed.tops()\n        self.network.policy.set_training_mode(True)",
        "        self.network.policy.set_training_mode(True)\n        latents = feed.tops()",
        "top features computed anew in training mode",
        equivalent="layers that run anew are set to rest for it",
    ),
    # === Its settings and its logs ===
    Mutant(
        ON_POLICY,
        "LocalObjective(self.guidance_coef,",
        "LocalObjective(1 - self.guidance_coef,",
        "one minus the coefficient",
        found_by="targets",
    ),
    Mutant(ON_POLICY, "coef, self.local_loss, self", 'coef, "strain", self', "always strain", found_by="targets"),
    Mutant(
        ON_POLICY, "self.local_loss, self.disparity)", 'self.local_loss, "identity")', "disparity ignored", found_by="targets"
    ),
    Mutant(ON_POLICY, "sizes = self.local_epochs, self", "sizes = 1, self", "one local epoch"),
    Mutant(ON_POLICY, "self.local_batch_size, self.max", "64, self.max", "size of minibatches ignored"),
    Mutant(
        ON_POLICY, "self.local_batch_size, self.max_grad_norm\n", "self.local_batch_size, 1e9\n", "steps of blocks not clipped"
    ),
    Mutant(ON_POLICY, '("r2", record.explained)', '("r2", record.loss)', "losses logged for R2", found_by="hidden_phase"),
    Mutant(ON_POLICY, '("loss", record.loss)', '("loss", record.grad_norm)', "norms logged for losses"),
    Mutant(ON_POLICY, '("movement", record.movement)', '("movement", record.loss)', "losses logged for movement"),
    Mutant(ON_POLICY, "np.mean([record.grad_norm", "np.mean([record.loss", "losses logged for norms"),
    Mutant(ON_POLICY, "if not math.isnan(value):", "if True:", "R2 of no guidance logged", found_by="local_learning"),
    Mutant(ON_POLICY, ', exclude=("stdout", "log"))', ")", "a line on the screen for every block", found_by="local_learning"),
    Mutant(
        ON_POLICY,
        'f"local/{figure}/{name}"',
        'f"train/local_loss/{figure}/{name}"',
        "keys below others",
        found_by="local_learning",
    ),
    Mutant(ON_POLICY, "self.policy.set_training_mode(False)", "pass", "features of the heads in training mode"),
    Mutant(
        ON_POLICY,
        "(index % buffer.buffer_size, index // buffer.buffer_size)",
        "(index // buffer.n_envs, index % buffer.n_envs)",
        "observations step by step, all else by environments",
        found_by="targets",
    ),
    Mutant(
        ON_POLICY,
        "values = RolloutBuffer.swap_and_flatten(values)",
        "values = values.reshape(-1, *values.shape[2:])",
        "columns",
        found_by="oracle",
    ),
    # === Holding the heads ===
    Mutant(
        ON_POLICY, "drift = self.heads.hold(outputs, features)", "drift = None", "refit left out", found_by="local_learning"
    ),
    Mutant(
        ON_POLICY,
        "        outputs = self.heads.say(*before)\n        features = self._train_blocks(rows)\n",
        "        features = self._train_blocks(rows)\n"
        "        outputs = self.heads.say(features, *before[len(rows.latents) :])\n",
        "held to what they say now",
        found_by="local_learning",
    ),
    Mutant(
        ON_POLICY,
        "after = [features, *([] if self.heads.anchors is None else [self.heads.anchors])]",
        "after = [*([] if self.heads.anchors is None else [self.heads.anchors]), features]",
        "sums carried over in another order",
        found_by="evaluation",
    ),
    Mutant(
        HEADS,
        "level_gram(read[0]) + self._anchor_gram(MAPS[_side(path)])",
        "level_gram(read[0])",
        "refit weighed without anchors",
    ),
    Mutant(
        HEADS,
        "[features] if self.anchors is None else [features, self.anchors]",
        "[self.anchors or features, features]",
        "said in another order",
    ),
    Mutant(
        HEADS,
        "for latent, own in zip(read, missing, strict=True)",
        "for latent, own in zip(read[:1], missing[:1], strict=True)",
        "held on new rows alone",
    ),
    Mutant(ON_POLICY, CARRY, "pass", "sums not carried over"),
    Mutant(ON_POLICY, CARRY, CARRY.replace("(before)[1]", "(before)[0]"), "sums carried over by the actor's features"),
    Mutant(
        ON_POLICY,
        "        self._remember_anchors()\n        self._fingerprint = self.policy",
        "        self._fingerprint = self.policy",
        "refit on the anchors' features of before",
    ),
    Mutant(
        ON_POLICY,
        "        self.heads.memory.release()  # sums over features of before\n",
        "",
        "sums over features of before",
        found_by="evaluation",
    ),
    Mutant(
        ON_POLICY,
        "            self.heads.memory.release()  # the anchors hold the values now\n",
        "",
        "held by sums and by anchors",
        found_by="evaluation",
    ),
    Mutant(
        ON_POLICY,
        VALUES
        + HEADS_LAST
        + "        if enough is not None:\n            # Not before the values are fitted: anchors hold them where they are\n"
        + EXCHANGE,
        "        if enough is not None:\n" + EXCHANGE + VALUES + HEADS_LAST,
        "anchors taken in before the values are fitted",
    ),
    Mutant(
        ON_POLICY,
        "if not unchanged or (self.anchors.rows > 0) != (self.heads.anchors is not None):",
        "if (self.anchors.rows > 0) != (self.heads.anchors is not None):",
        "old features of the anchors",
    ),
    Mutant(HEADS, "pick(self.anchors, kept)", "pick(self.anchors, slice(len(kept)))", "old anchors"),
    Mutant(HEADS, "pick(latents, taken)", "pick(latents, slice(len(taken)))", "new anchors"),
    # === What is made of a rollout to remember it ===
    Mutant(
        ON_POLICY, "rewards[env, step] -= self.gamma *", "rewards[env, step] += self.gamma *", "values of cuts added twice"
    ),
    Mutant(
        ON_POLICY,
        "rewards[env, step] -= self.gamma *",
        "rewards[env, step] -= 1.0 *",
        "values of cuts not discounted",
        found_by="evaluation",
    ),
    Mutant(
        ON_POLICY, "trace, buffer.gamma, buffer.gae_lambda)", "trace, buffer.gae_lambda, buffer.gamma)", "discount and lambda"
    ),
    Mutant(
        ON_POLICY, "trace = self.heads.memory.trace\n", "trace = None\n", "traces end with the rollout", found_by="evaluation"
    ),
    Mutant(
        ON_POLICY,
        'info.get("TimeLimit.truncated", False)',
        'not info.get("TimeLimit.truncated", False)',
        "ends taken for cuts",
        found_by="evaluation",
    ),
    Mutant(
        ON_POLICY,
        "= buffer.episode_starts.T, ends",
        "= buffer.episode_starts.T, 0",
        "ends after the rollout",
        found_by="evaluation",
    ),
    Mutant(
        ON_POLICY, "self._rollout_rows() >= Memory.ROWS:", "self._rollout_rows() > Memory.ROWS:", "a long rollout remembered"
    ),
    # === Advantages ===
    Mutant(
        ON_POLICY, "if advantages.shape[-1] < 2:", "if advantages.shape[-1] < 1:", "one advantage normalised", found_by="heads"
    ),
    Mutant(ON_POLICY, "(advantages.std(dim=-1, keepdim=True) + 1e-8)", "1.0", "advantages not scaled", found_by="heads"),
    Mutant(
        PPO,
        "view(-1, self.batch_size), rollout",
        "view(1, -1), rollout",
        "advantages normalised per rollout",
        found_by="phases",
    ),
    Mutant(PPO, "if not self.normalize_advantage:", "if self.normalize_advantage:", "normalised where they are not to be"),
    Mutant(A2C, "if self.normalize_advantage:", "if not self.normalize_advantage:", "normalised where they are not to be"),
    # === A2C's loss ===
    Mutant(A2C, "Slopes(-rollout.advantages / rows", "Slopes(rollout.advantages / rows", "sign of the policy gradient"),
    Mutant(A2C, "Slopes(-rollout.advantages / rows", "Slopes(-rollout.advantages", "no mean over rows"),
    Mutant(A2C, "-self.ent_coef / rows", "self.ent_coef / rows", "sign of the entropy bonus"),
    Mutant(A2C, "-self.ent_coef / rows", "-self.ent_coef", "entropy not a mean"),
    Mutant(
        A2C,
        "error * (2 * self.vf_coef / rows)",
        "-error * (2 * self.vf_coef / rows)",
        "sign of the value slope",
        found_by="oracle",
    ),
    Mutant(A2C, "error * (2 * self.vf_coef / rows)", "error * (self.vf_coef / rows)", "half of the value slope"),
    Mutant(A2C, "self._objective, self.max_grad_norm)", "self._objective, 1e9)", "steps of the heads not clipped"),
    Mutant(A2C, "self._n_updates += 1", "self._n_updates += 2", "updates counted twice", found_by="oracle"),
    Mutant(
        A2C,
        "        return self._learning_rate()",
        "        return self._head_learning_rate()",
        "spread at the rate of the heads",
    ),
    Mutant(A2C, '"entropy_loss", "policy_loss"', '"policy_loss", "entropy_loss"', "logs swapped"),
    # === PPO's loss ===
    Mutant(PPO, "surrogate, self.max_grad_norm)", "surrogate, 1e9)", "steps of the heads not clipped"),
    Mutant(PPO, "for epoch in range(self.n_epochs):", "for epoch in range(1):", "one epoch", found_by="phases"),
    Mutant(
        PPO, "            self._n_updates += 1", "            self._n_updates += self.n_epochs", "updates counted too often"
    ),
    Mutant(PPO, "                break\n", "                pass\n", "goes on beyond the target", found_by="local_learning"),
    Mutant(PPO, "> 1.5 * self.target_kl", "> self.target_kl", "target without its factor"),
    Mutant(
        PPO, "th.randperm(len(rollout.returns), device=self.device)", "th.arange(len(rollout.returns))", "rows not shuffled"
    ),
    Mutant(PPO, "            surrogate.begin_epoch()\n", "", "approximate KL of all epochs", found_by="oracle"),
    Mutant(PPO, "mul_(-1 / rows)", "mul_(1 / rows)", "sign of the policy gradient"),
    Mutant(PPO, "mul_(-1 / rows)", "mul_(-1)", "no mean over rows"),
    Mutant(PPO, "-self.ent_coef / rows, value_slope", "self.ent_coef / rows, value_slope", "sign of the entropy bonus"),
    Mutant(PPO, "clipped < plain, 0.0", "clipped > plain, 0.0", "clipped on the other side"),
    Mutant(PPO, "clamp(1 - self.clip_range, 1 + self.clip_range)", "clamp(1 - self.clip_range, 2.0)", "clipped below alone"),
    Mutant(PPO, "slope = 2 * self.vf_coef", "slope = self.vf_coef", "half of the value slope"),
    Mutant(PPO, ".clamp(-clip_range_vf, clip_range_vf)", "", "targets of values not clipped", found_by="phases"),
    Mutant(
        PPO,
        "super()._steps(rollout) if self._current_clip_range_vf() is None else None",
        "super()._steps(rollout)",
        "remembered",
        found_by="evaluation",
    ),
    Mutant(
        PPO, "self.clip_range(self._current_progress_remaining)", "self.clip_range(1.0)", "clip range without its schedule"
    ),
    Mutant(
        PPO,
        "self.clip_range_vf(self._current_progress_remaining)",
        "self.clip_range_vf(1.0)",
        "that of values, too",
        found_by="phases",
    ),
    # === Heads ===
    Mutant(HEADS, "if norm > max_grad_norm:", "if False:", "never clipped"),
    Mutant(HEADS, "own.mul_(max_grad_norm / norm)", "own.mul_(max_grad_norm)", "clipped to another norm"),
    Mutant(
        HEADS,
        "            parameter.grad = None\n        entropy_slope",
        "            pass\n        entropy_slope",
        "gradients add up",
        found_by="oracle",
    ),
    Mutant(
        HEADS,
        "th.full_like(outputs.entropy, slopes.entropy)",
        "-th.full_like(outputs.entropy, slopes.entropy)",
        "entropy's sign",
    ),
    Mutant(
        HEADS,
        "(outputs.values, slopes.values)]",
        "(outputs.values, None if slopes.values is None else -slopes.values)]",
        "sign of the value slope",
        found_by="oracle",
    ),
    Mutant(
        HEADS,
        "[[p for p in self.parameters if p not in critic], [p for p in self.parameters if p in critic]]",
        "[[p for p in self.parameters if p not in critic or not self._is_linear(policy.value_net)], []]",
        "the critic's errors shrink the actor's step",
        found_by="heads",
    ),
    Mutant(HEADS, "spread if group", "maps if group", "spread at the rate of the maps"),
    Mutant(HEADS, "        self.memory.fade(len(features))\n", "", "memory does not fade", found_by="evaluation"),
    Mutant(
        HEADS, "            memory.fade(len(features))\n", "            pass\n", "no end of a trace", found_by="evaluation"
    ),
    Mutant(
        HEADS,
        "memory.new_rows < memory.FIT_ROWS",
        "memory.new_rows < 0",
        "fitted to every handful of rows",
        found_by="evaluation",
    ),
    Mutant(
        HEADS,
        'held = self._anchor_gram("value_net") + memory.held_gram',
        "held = memory.held_gram + 0.0",
        "values not held on the anchors",
    ),
    Mutant(
        HEADS,
        'held = self._anchor_gram("value_net") + memory.held_gram',
        'held = self._anchor_gram("value_net") + 0.0',
        "values not held on other rows",
    ),
    Mutant(HEADS, "(1 / ROLLOUT_SHARE - 1) * rows", "1e9 * rows", "a rollout counts by its rows alone"),
    Mutant(HEADS, "gram = gram + weight * held", "gram = gram + held", "what is held does not give way"),
    Mutant(HEADS, "ridge = REFIT_RIDGE + 1 / (rows + weight * held_rows)", "ridge = REFIT_RIDGE", "few rows trusted"),
    Mutant(
        HEADS, "returns[:, None] - head(features)) + memory", "returns[:, None]) + memory", "fitted to returns from nothing"
    ),
    Mutant(HEADS, "+ memory.missing(weights)\n", "\n", "memory not drawn on by long rollouts", found_by="evaluation"),
    Mutant(
        HEADS,
        "max(memory.new_rows // len(features), 1)",
        "1",
        "one step for all rollouts that have waited",
        found_by="evaluation",
    ),
    Mutant(HEADS, "        memory.fitted()\n", "", "never fitted", found_by="evaluation"),
    Mutant(
        HEADS,
        "            memory.hold(own, len(features))",
        "            pass",
        "long rollouts not held",
        found_by="evaluation",
    ),
    Mutant(HEADS, "            memory.forget()\n", "", "a fit that failed is remembered", found_by="evaluation"),
    Mutant(HEADS, "[own - head(latent) for own", "[own for own", "heads held to nothing"),
    Mutant(HEADS, "self._move(path, solve_ridge(gram, moments, REFIT_RIDGE))", "pass", "heads not held"),
    Mutant(HEADS, "head.bias.add_(step[-1])", "pass", "bias not moved"),
    Mutant(
        HEADS,
        "(features.T @ features / rows + self._anchor_moments()) / 2",
        "features.T @ features / rows",
        "anchors not whitened",
    ),
    Mutant(HEADS, "if rows >= WHITENING_ROWS:", "if rows >= 1:", "a few rows whitened"),
    Mutant(HEADS, "return self.policy.log_std.exp() if", "return self.policy.log_std if", "units of the logarithm"),
    Mutant(
        HEADS, "return distribution.stddev.mean(dim=0)", "return distribution.variance.mean(dim=0)", "units of the variance"
    ),
    Mutant(
        HEADS,
        "return improved + advantages[:, None] * score\n",
        "return improved - advantages[:, None] * score\n",
        "sign of scores",
    ),
    Mutant(
        HEADS, "(improved + advantages[:, None] * score * variance)", "(improved + advantages[:, None] * score)", "no natural"
    ),
    # === Closed form ===
    Mutant(
        CLOSED_FORM,
        "outputs - weights * outputs.softmax(dim=1)",
        "outputs + weights * outputs.softmax(dim=1)",
        "sign of scores",
    ),
    Mutant(CLOSED_FORM, "weights * (actions - outputs)) *", "weights * (outputs - actions)) *", "sign of scores of means"),
    Mutant(CLOSED_FORM, "(actions - outputs)) * th.exp(-policy.log_std)", "(actions - outputs))", "scores not in deviations"),
    Mutant(CLOSED_FORM, "(log_probs + entropy[:, None])", "(log_probs - entropy[:, None])", "slope of the entropy"),
    Mutant(CLOSED_FORM, "(-probs * rate)", "(probs * rate)", "sign of the probabilities"),
    Mutant(
        CLOSED_FORM, "(noise.square() - 1) + slopes.entropy", "(noise.square() - 1) - slopes.entropy", "sign of the entropy"
    ),
    Mutant(CLOSED_FORM, "onto * noise * inverse_std", "onto * noise", "slope of the means"),
    Mutant(CLOSED_FORM, "            output_slopes.mul_(scale)", "            output_slopes.div_(scale)", "slopes by units"),
    # === Blocks ===
    Mutant(BLOCKS, "        if norm > max_grad_norm:", "        if False:", "never clipped"),
    Mutant(BLOCKS, "norm = math.hypot(*norms)", "norm = max(norms)", "the largest norm for that of all"),
    Mutant(
        BLOCKS, "return gradient.T @ inputs, gradient.sum(dim=0)", "return gradient.T @ inputs, gradient.mean(dim=0)", "bias"
    ),
    Mutant(BLOCKS, "            parameter.grad = own", "            parameter.grad = -own", "sign of the gradient"),
    Mutant(BLOCKS, "threshold_backward(gradient, outputs, 0)", "threshold_backward(gradient, outputs, -1)", "slope of ReLU"),
    # === Distances ===
    Mutant(DISTANCES, "mul_(-0.5).expm1_()", "mul_(-1.0).expm1_()", "another bandwidth"),
    Mutant(DISTANCES, "th.where(distances > 0, distances, th.nan)", "distances", "bandwidth by all pairs"),
    Mutant(DISTANCES, "return distances / distances.mean()", "return distances / distances.max()", "stress in other units"),
    Mutant(DISTANCES, "add_(means.mean()).mul_(-0.5)", "add_(means.mean()).mul_(0.5)", "sign of inner products"),
    Mutant(
        DISTANCES,
        "slope = gram_unit.mul_(alignment).sub_(target_unit)",
        "slope = gram_unit.sub_(target_unit)",
        "strain's gradient",
    ),
    # === Rows that wait, anchors ===
    Mutant(PENDING, "min(self.interval, Anchors.fitting(first))", "self.interval", "more bytes than may be kept"),
    Mutant(PENDING, "(number := self.rows) < enough", "(number := self.rows) <= enough", "one rollout too late"),
    Mutant(
        PENDING,
        "rows.number >= enough:",
        "rows.number > enough:",
        "a whole rollout waits",
        equivalent="it is handed out all the same",
    ),
    Mutant(PENDING, "            self._clear()  # from before", "            pass  # from before", "signals of two kinds"),
    Mutant(PENDING, "        self._clear()\n        return Rows", "        return Rows", "handed out twice"),
    Mutant(ANCHORS, "max(room // 8, room - self.rows)", "room", "all anchors from the last rows"),
    Mutant(ANCHORS, "taken = th.randperm(rows)[", "taken = th.arange(rows)[", "the first rows become anchors"),
    Mutant(ANCHORS, "kept = th.randperm(self.rows)[", "kept = th.arange(self.rows)[", "the first anchors stay forever"),
    # === Least-squares policy evaluation ===
    Mutant(EVALUATION, "value=1.0)", "value=0.0)", "no level"),
    Mutant(
        EVALUATION, "flow[:, :-1], weights, alpha=-1)", "flow[:, :-1], weights, alpha=1)", "sign of the temporal differences"
    ),
    Mutant(EVALUATION, "keep = max(1 - rows / self.ROWS, 0.0)", "keep = 1.0", "nothing fades"),
    Mutant(EVALUATION, '            self.state["flow"].mul_(keep)\n', "", "returns do not fade"),
    Mutant(EVALUATION, "self.rows, 1 - keep)", "self.rows, keep)", "what stays is held"),
    Mutant(EVALUATION, "        change.diagonal().add_(1)\n", "", "carried over by the change alone"),
    Mutant(EVALUATION, '"gram"] @ change', '"gram"]', "carried over from the left alone"),
    Mutant(EVALUATION, 'self.state["trace"] = self.trace @ change', "pass", "trace not carried over"),
    Mutant(EVALUATION, '        self.state.pop("trace", None)\n', "", "an old trace goes on"),
    Mutant(EVALUATION, "rates = gae_lambda * goes_on", "rates = goes_on", "lambda of one"),
    Mutant(EVALUATION, "moved = moved + th.linalg", "moved = weights + th.linalg", "one step after all"),
    # === Whitened coordinates ===
    Mutant(WHITENING, "(WHITENING_RIDGE + 1 / rows)", "WHITENING_RIDGE", "few rows trusted"),
    Mutant(WHITENING, "        moments.diagonal().add_(ridge)\n", "", "no ridge"),
    Mutant(
        WHITENING,
        "(self._now[0] - self._first[0]) @ self.basis",
        "(self._now[0] - self._first[0])",
        "left halfway",
    ),
    Mutant(WHITENING, "self.scale[:, None] * weight, self.scale * bias", "weight, bias", "left in units"),
    Mutant(WHITENING, "            weight.mul_(self.scale[:, None])\n", "", "units forgotten"),
    # === Features of a rollout ===
    Mutant(
        LATENTS,
        "th.stack(parts, dim=1)",
        "th.stack(parts, dim=0)",
        "features step by step, all else by environments",
        found_by="targets",
    ),
    Mutant(LATENTS, "if fits and unchanged and all(", "if fits and all(", "features of other weights", found_by="phases"),
    Mutant(LATENTS, "len(self._steps) - 2, features", "len(self._steps) - 1, features", "cuts a step late"),
    Mutant(LATENTS, "elif self.last is None:", "else:", "whatever a callback asks"),
    # === What the policy says, and what is kept of it ===
    Mutant(
        AGREEMENT,
        "alike(outputs.log_prob, log_prob) and same_entropy,",
        "alike(outputs.log_prob, log_prob),",
        "entropies not compared",
    ),
    Mutant(AGREEMENT, "alike(own_values, values.flatten()), reading)", "True, reading)", "values not compared"),
    Mutant(
        AGREEMENT, "return self.actions and self.values", "return self.actions", "cached features do for values of one's own"
    ),
    Mutant(
        AGREEMENT,
        'if alike(given, own[path.split(".")[0]]))',
        "if given is not None)",
        "all that is called reads the features",
    ),
    Mutant(
        AGREEMENT,
        "if len(inputs) == 1 and isinstance(inputs[0], th.Tensor)}",
        "if inputs and isinstance(inputs[0], th.Tensor)}",
        "a module called twice read by its first call",
    ),
    Mutant(
        AGREEMENT,
        "name in vars(policy) or getattr(type(policy), name)",
        "getattr(type(policy), name)",
        "methods of one policy alone not seen",
    ),
    Mutant(AGREEMENT, "with at_rest(policy), th.no_grad():", "with th.no_grad():", "compared in training mode"),
    Mutant(
        AGREEMENT,
        "return Agreement(False, False, reading)",
        "return Agreement(False, True, reading)",
        "values of heads that cannot be asked trusted",
    ),
    Mutant(
        ON_POLICY,
        "if self._rows_to_check >= 0 and not own_methods:",
        "if self._rows_to_check >= 0:",
        "methods of one's own seldom looked at",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "        self._rows_to_check = ROWS_BETWEEN_CHECKS\n",
        "",
        "looked at in every rollout",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "        self._rows_to_check -= rows\n",
        "        self._rows_to_check -= 0\n",
        "never looked at",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "        if recorded and not all(map(alike,",
        "        if False and not all(map(alike,",
        "recorded features not checked",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "latent_vf=latents[1]), False\n",
        "latent_vf=latents[1]), recorded\n",
        "computed features taken for those that acted",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "if values_learn and recorded else None",
        "if values_learn else None",
        "steps by features that did not act",
        found_by="phases",
    ),
    Mutant(
        ON_POLICY,
        "            recorded, samples = False,",
        "            recorded, samples = True,",
        "steps of a buffer of one's own",
        found_by="own_buffers",
    ),
    Mutant(
        ON_POLICY,
        "        if self.heads.through_policy:\n            parts",
        "        if False:\n            parts",
        "guidance of the heads alone",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY, "            self.heads.follow(None)\n", "", "heads asked in the way of before", found_by="own_policies"
    ),
    Mutant(
        ON_POLICY,
        "if not are_lambda_returns(buffer, values.numpy(force=True), np.asarray(ends)):",
        "if False:",
        "returns that were written to taken apart",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "unchanged = self.network.fingerprint.shows(before, now)\n",
        "unchanged = True\n",
        "weights never found changed",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "            self.pending.recompute(lambda rows: self._latents([rows]))\n",
        "",
        "old features of rows that wait",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "            self.heads.memory.forget()\n",
        "",
        "sums over features of other weights",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        'self._fingerprint = group["hidden"] = now',
        "self._fingerprint = now",
        "a fingerprint that no file has",
        found_by="evaluation",
    ),
    Mutant(
        ON_POLICY,
        '        self._fingerprint = self.policy.optimizer.param_groups[0]["hidden"] = self.network.fingerprint()\n',
        "",
        "fingerprint of before the hidden phase",
        found_by="evaluation",
    ),
    Mutant(
        ON_POLICY,
        "                self._recorder.compute(self._last_obs,",
        "                (lambda *_: None)(self._last_obs,",
        "ends of a compiled policy not computed",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "self._recorder.recording(hooks=not self._is_compiled())",
        "self._recorder.recording()",
        "compiled anew for the hooks",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "                regroup(optimizer, like=policy.optimizer)\n",
        "                pass\n",
        "groups of the optimizer lost",
        found_by="own_policies",
    ),
    Mutant(
        EVALUATION,
        "(1 - np.concatenate([buffer.episode_starts[1:], starts[None]]).astype(np.float32))",
        "(1 - np.concatenate([buffer.episode_starts[1:], 0 * starts[None]]).astype(np.float32))",
        "episodes that end with the rollout go on",
    ),
    Mutant(
        EVALUATION,
        "if not np.array_equal(buffer.returns, buffer.advantages + buffer.values):",
        "if False:",
        "returns that were written to not seen",
        found_by="own_policies",
    ),
    Mutant(
        EVALUATION,
        "return bool(np.abs(buffer.advantages - advantages).max() <= 1e-4 * scale)",
        "return True",
        "nor advantages that were written to",
        found_by="own_policies",
    ),
    Mutant(
        HEADS,
        "            self.linear_heads = [name for name in linear if name in agreement.reading]\n",
        "            self.linear_heads = linear\n",
        "heads that read other things whitened and fitted",
        found_by="own_policies",
    ),
    Mutant(
        HEADS,
        "reading = linear if agreement is None else agreement.reading",
        "reading = linear",
        "linear heads held alone, whatever they read",
        found_by="own_heads",
    ),
    Mutant(
        HEADS, " and (agreement is None or agreement.values)\n", "\n", "values in other units fitted", found_by="own_policies"
    ),
    Mutant(
        HEADS,
        "whole = len(linear) == 2 and not self.through_policy",
        "whole = len(linear) == 2",
        "closed form of what the heads alone say",
        found_by="own_policies",
    ),
    Mutant(
        HEADS, " and not gradient_hooks(spread)\n", "\n", "gradient hooks of the spread not called", found_by="own_policies"
    ),
    Mutant(
        HEADS, " and not gradient_hooks(own.values())\n", "\n", "gradient hooks of heads not called", found_by="own_policies"
    ),
    Mutant(
        HEADS,
        "            parameter.requires_grad_(False)\n",
        "            pass\n",
        "graphs that begin below the heads",
        found_by="own_policies",
    ),
    Mutant(
        HEADS,
        "                parameter.requires_grad_(True)\n",
        "                pass\n",
        "hidden layers frozen for good",
        found_by="own_policies",
    ),
    Mutant(
        HEADS,
        "            part.train(False)\n",
        "            pass\n",
        "dropout while heads learn through the policy",
        found_by="own_policies",
    ),
    Mutant(
        HEADS,
        "                part.train(True)\n",
        "                pass\n",
        "hidden layers left at rest",
        found_by="own_policies",
    ),
    Mutant(
        HEADS,
        "            self._whitening.pull_gradients()\n",
        "            pass\n",
        "gradients for features in a step in coordinates",
        found_by="phases",
    ),
    Mutant(
        HEADS,
        "            self._whitening.enter()\n            try:\n",
        "            try:\n",
        "weights for features in a step in coordinates",
        found_by="phases",
    ),
    Mutant(
        HEADS,
        "                self._whitening.leave()\n",
        "                pass\n",
        "weights left in coordinates after a step",
        found_by="phases",
    ),
    Mutant(
        HEADS,
        "whitening = self._whitening if self.closed_form else None",
        "whitening = self._whitening",
        "coordinates around the whole training of any head",
        found_by="phases",
    ),
    Mutant(
        ON_POLICY,
        "            set_apart(self.heads.optimizer, self.heads.spread)",
        "            pass",
        "no rate of its own for the spread",
        found_by="heads",
    ),
    Mutant(WHITENING, "            bias.mul_(self.scale)\n", "", "units of the bias forgotten"),
    Mutant(
        LATENTS,
        "same[distances.index(min(distances))]",
        "same[-1]",
        "the last call that is nearly the same",
        found_by="own_policies",
    ),
    Mutant(
        FINGERPRINT,
        "th.view_as_real(tensor.resolve_conj()) if tensor.is_complex()",
        "tensor.abs() if tensor.is_complex()",
        "phases of complex weights not seen",
        found_by="own_policies",
    ),
    Mutant(
        LATENTS,
        "same[distances.index(min(distances))]",
        "same[0]",
        "the first call that is nearly the same",
        found_by="own_policies",
    ),
    Mutant(
        LATENTS,
        "if fits and unchanged and all(len(step) == 1 for step in steps):",
        "if fits and unchanged and all(steps):",
        "the first call of a step, whoever made it",
        found_by="own_policies",
    ),
    Mutant(
        LATENTS,
        "return (computed, False) if found is None else (found, True)",
        "return computed, False",
        "nothing found again",
        found_by="own_policies",
    ),
    Mutant(
        LATENTS,
        "        self._inside, self._call = False, ([], [])\n        if len",
        "        self._call = ([], [])\n        if len",
        "never outside the policy",
    ),
    Mutant(LATENTS, ", always_call=True)", ")", "inside for good after a call that fails", found_by="own_policies"),
    Mutant(
        LATENTS,
        "(env, len(self._steps) - 1, end)",
        "(env, len(self._steps) - 2, end)",
        "ends that are computed a step early",
        found_by="own_policies",
    ),
    Mutant(
        LATENTS,
        "        if not hooks:\n            yield\n            return\n",
        "",
        "a compiled policy hooked",
        found_by="own_policies",
    ),
    Mutant(
        FINGERPRINT,
        " if tensor.is_floating_point() or tensor.is_complex()]",
        " if tensor.is_floating_point()]",
        "complex weights not seen",
        found_by="own_policies",
    ),
    Mutant(
        FINGERPRINT,
        "rtol=1e-5, atol=1e-5)",
        "rtol=1e-1, atol=1e-1)",
        "small changes of weights not seen",
        found_by="own_policies",
    ),
    Mutant(
        OPTIMIZERS, "if not isinstance(maker, type) or type(whole) is maker:", "if True:", "an exchanged optimizer not seen"
    ),
    Mutant(OPTIMIZERS, " and parameter.is_floating_point() for", " for", "fused for complex numbers"),
    Mutant(OPTIMIZERS, '("lr", *IMPLEMENTATION) if name in first}', '("lr",) if name in first}', "never fused"),
    Mutant(FINITE, "nan_is_fine=finite)", "nan_is_fine=True)", "NaN is always fine"),
    Mutant(FINITE, "nan_is_fine=finite)", "nan_is_fine=False)", "NaN is never fine"),
    Mutant(FINITE, "~np.isinf(values) if nan_is_fine", "np.ones(values.shape, bool) if nan_is_fine", "so is infinity"),
    Mutant(
        FINITE,
        "(buffer.returns, buffer.values, buffer.log_probs)",
        "(buffer.returns, buffer.values)",
        "log-probabilities not looked at",
    ),
    Mutant(
        NETWORK,
        "[type(whole), *options, *sorted",
        "[type(whole), *sorted",
        "new options of the optimizer not seen",
        found_by="own_policies",
    ),
    Mutant(
        NETWORK,
        "*(own._backward_hooks or ()), ",
        "",
        "new gradient hooks not seen",
        found_by="own_policies",
    ),
    Mutant(
        NETWORK,
        ", *(own._post_accumulate_grad_hooks or ())]",
        "]",
        "new hooks of accumulated gradients not seen",
        found_by="own_policies",
    ),
    Mutant(
        NETWORK,
        "        found += [*module._backward_hooks, *module._backward_pre_hooks]\n",
        "",
        "new backward hooks not seen",
        found_by="own_policies",
    ),
    Mutant(BLOCKS, " or gradient_hooks(self.parameters)\n", "\n", "gradient hooks not called", found_by="own_policies"),
    Mutant(
        BLOCKS,
        "module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)",
        "module._forward_pre_hooks)",
        "backward hooks not called",
        found_by="own_policies",
    ),
    Mutant(
        BLOCKS,
        "own._backward_hooks or own._post_accumulate_grad_hooks for own",
        "own._backward_hooks for own",
        "hooks of accumulated gradients not called",
        found_by="own_policies",
    ),
]
