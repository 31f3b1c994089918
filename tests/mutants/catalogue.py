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
    "values",
    "blocks",
    "auxiliary",
    "centring",
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
    "heads/gradients.py": ("heads", "phases", "local_learning"),
    "heads/guidance.py": ("heads", "targets", "local_learning"),
    "heads/heads.py": ("phases", "heads", "local_learning", "values"),
    "heads/regression.py": ("values", "local_learning", "phases"),
    "heads/training.py": ("phases", "heads", "oracle"),
    "heads/whitening.py": ("phases", "local_learning"),
    "local/blocks.py": ("blocks", "phases"),
    "local/centring.py": ("centring",),
    "local/distances.py": ("distances", "targets"),
    "local/auxiliary.py": ("auxiliary", "images"),
    "local/feed.py": ("hidden_phase", "images"),
    "local/loss.py": ("guided", "hidden_phase", "images"),
    "local/network.py": ("network", "own_policies"),
    "local/optimizers.py": ("own_policies", "save_load"),
    "local/partition.py": ("network", "images"),
    "local/parts.py": ("network",),
    "local/records.py": ("local_learning", "hidden_phase"),
    "local/phase.py": ("hidden_phase", "targets", "phases"),
    "local/root.py": ("network",),
    "local/splitting.py": ("network",),
    "on_policy.py": ("phases", "targets", "values"),
    "ppo.py": ("heads", "phases", "oracle"),
    "rollouts/checks.py": ("hostile_envs", "bad_input"),
    "rollouts/history.py": ("values", "local_learning", "phases"),
    "rollouts/reader.py": ("values", "own_policies", "own_buffers"),
    "rollouts/recorder.py": ("values", "own_policies", "local_learning"),
}

A2C = "a2c.py"
AGREEMENT = "heads/agreement.py"
AUXILIARY = "local/auxiliary.py"
BLOCKS = "local/blocks.py"
CENTRING = "local/centring.py"
CHECKS = "rollouts/checks.py"
DISTANCES = "local/distances.py"
FEED = "local/feed.py"
FINGERPRINT = "local/fingerprint.py"
GRADIENTS = "heads/gradients.py"
GUIDANCE = "heads/guidance.py"
HEADS = "heads/heads.py"
HISTORY = "rollouts/history.py"
LOSS = "local/loss.py"
NETWORK = "local/network.py"
ON_POLICY = "on_policy.py"
OPTIMIZERS = "local/optimizers.py"
PARTITION = "local/partition.py"
PARTS = "local/parts.py"
PHASE = "local/phase.py"
RECORDS = "local/records.py"
PPO = "ppo.py"
READER = "rollouts/reader.py"
RECORDER = "rollouts/recorder.py"
REGRESSION = "heads/regression.py"
ROOT = "local/root.py"
SPLITTING = "local/splitting.py"
TRAINING = "heads/training.py"
WHITENING = "heads/whitening.py"

VALUES = "        self._fit_values(rollout)\n"
HEADS_LEARN = """\
        self.policy.set_training_mode(True)  # as under SB3
        with HeadTraining(self.heads, rollout, self.history.sample, self.whiten_heads, observations) as training:
            self._head_phase(training)
        del training  # with its copies of the features
"""
HIDDEN = """\
        if rows is not None:
            latents = self._hidden_phase(rows)
            self.history.exchange(rows.number, rows.observations, latents)
"""
REFRESH = "        self.history.refresh(self._features, self.network.fingerprint(), rows.parts, latents)\n"
REFIT = "        drift = self.heads.refit(outputs, latents, self.history.sample)\n"
TRAIN_THEN_RUN = """\
                if block.optimizer is not None:
                    assert block.module is not None
                    own = [module for module in block.module.modules() if module in learning]
                    self._train_block(index, feed, rows, guides.get(block.role), own)
                feed.advance(index)
"""
RUN_THEN_TRAIN = """\
                feed.advance(index)
                if block.optimizer is not None:
                    assert block.module is not None
                    own = [module for module in block.module.modules() if module in learning]
                    self._train_block(index, feed, rows, guides.get(block.role), own)
"""
LEARN = """\
        try:
            for index, block in enumerate(self.network.steps):
                if block.optimizer is not None:
                    assert block.module is not None
                    own = [module for module in block.module.modules() if module in learning]
                    self._train_block(index, feed, rows, guides.get(block.role), own)
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
        READER,
        "return self._checked(rollout, observations, recorded), observations",
        "return rollout, observations",
        "heads not tried",
        found_by="own_policies",
    ),
    # === Buffers of the user's own ===
    Mutant(
        READER,
        "        if _hands_out_as_sb3(buffer):\n",
        "        if True:\n",
        "a buffer of one's own passed by",
        found_by="own_buffers",
    ),
    Mutant(
        READER,
        "observations = partial(pick, samples.observations)",
        "pass",
        "other observations than were handed out",
        found_by="own_buffers",
    ),
    # === Cutting the network ===
    Mutant(
        PARTITION,
        "numbers[node] = max(below)",
        "numbers[node] = min(below)",
        "what joins two goes to the lower",
        found_by="network",
    ),
    Mutant(
        PARTITION,
        "isinstance(root.get_submodule(str(node.target)), nn.LayerNorm)",
        "False",
        "a LayerNorm starts a block",
        found_by="network",
    ),
    Mutant(
        PARTITION,
        "if _starts(root, node, parameters) or (below and joins):",
        "if _starts(root, node, parameters):",
        "branches joined in the last one's block",
        found_by="network",
    ),
    Mutant(
        PARTS,
        "[value.clone() for value in values] if self.spared else values",
        "values",
        "inputs written to",
        found_by="network",
    ),
    Mutant(
        PARTS,
        'role = next(iter(roles)) if len(roles) == 1 else "shared"',
        "role = sorted(roles)[0]",
        "shared blocks guided by the actor alone",
        found_by="network",
    ),
    Mutant(
        SPLITTING,
        "        if told(node) != told(other):\n",
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
    Mutant(SPLITTING, "    use_once(root, graph)\n", "", "shared modules run twice", found_by="network"),
    Mutant(PARTITION, "            merge(*sorted((owner, numbers[node])))\n", "", "weights in two blocks", found_by="network"),
    Mutant(PARTITION, "for user in list(node.users)[1:]:", "for user in []:", "sizes handed on", found_by="network"),
    Mutant(
        SPLITTING,
        "return layer or module in",
        "return module in",
        "layers of one's own traced",
        found_by="phases",
    ),
    Mutant(
        ROOT,
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
        "            self.history.forget_features()\n",
        "",
        "features of another network kept",
        found_by="network",
    ),
    Mutant(
        HISTORY,
        "self.sample = self.fingerprint = None",
        "self.fingerprint = None",
        "sampled features of another network kept",
        equivalent="they are computed anew at once, as the fingerprint is forgotten",
        found_by="network",
    ),
    Mutant(
        HISTORY,
        "self.sample = self.fingerprint = None",
        "self.sample = None",
        "fingerprint of another network kept",
        found_by="network",
    ),
    Mutant(
        HISTORY,
        "self.waiting, self.waiting_rows, self.recent, self.new_rows, self.left = [], 0, [], 0, (None, 0)",
        "self.recent, self.new_rows, self.left = [], 0, (None, 0)",
        "rollouts with features of another network wait",
        found_by="network",
    ),
    Mutant(
        HISTORY,
        "self.waiting, self.waiting_rows, self.recent, self.new_rows, self.left = [], 0, [], 0, (None, 0)",
        "self.waiting, self.waiting_rows, self.new_rows, self.left = [], 0, 0, (None, 0)",
        "window of another network kept",
        equivalent="the rollout at hand has no transitions, which drops it",
        found_by="network",
    ),
    Mutant(NETWORK, "found += [id(module), ", "found += [0, ", "exchanged modules not seen", found_by="network"),
    # === The order of things, and what goes where ===
    Mutant(ON_POLICY, VALUES + HEADS_LEARN + HIDDEN, HIDDEN + VALUES + HEADS_LEARN, "hidden phase before the heads"),
    Mutant(ON_POLICY, VALUES + HEADS_LEARN + HIDDEN, VALUES + HIDDEN + HEADS_LEARN, "hidden phase before the action head"),
    Mutant(ON_POLICY, VALUES + HEADS_LEARN + HIDDEN, HEADS_LEARN + HIDDEN + VALUES, "values fitted after the hidden phase"),
    Mutant(
        HISTORY,
        "        if transitions is not None:\n            self._extend",
        "        if transitions is not None and self.waiting_rows + number < interval:\n            self._extend",
        "a rollout with a hidden phase not in the window",
        found_by="values",
    ),
    Mutant(
        ON_POLICY,
        'if self.hidden_training != "local" or not self.network.blocks:',
        "if not self.network.blocks:",
        "frozen layers trained",
        found_by="local_learning",
    ),
    Mutant(ON_POLICY, "if self.guidance_coef > 0 else {}", "if self.guidance_coef > 1 else {}", "never guided"),
    Mutant(
        ON_POLICY,
        "if self.vf_coef * self._head_learning_rate() <= 0 or not self.heads.fits_values:",
        "if not self.heads.fits_values:",
        "values fitted without a coefficient",
    ),
    Mutant(
        ON_POLICY,
        "steps = self._transitions() if unchanged else None",
        "steps = None",
        "no window",
        found_by="values",
    ),
    Mutant(
        TRAINING,
        "return self.latent_pi, self.latent_vf",
        "return self.latent_vf, self.latent_pi",
        "features swapped",
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
        "set_learning_rates(self._head_learning_rate(), self._log_std_learning_rate())",
        "set_learning_rates(self._log_std_learning_rate(), self._head_learning_rate())",
        "learning rates of the heads swapped",
        found_by="heads",
    ),
    Mutant(
        ON_POLICY, "self._update_learning_rate(self.policy.optimizer)", "pass", "learning rate not updated", found_by="phases"
    ),
    Mutant(
        ON_POLICY,
        "owners: list[Any] = [self.heads, *self.network.blocks]",
        "owners: list[Any] = [*self.network.blocks]",
        "state of the heads not shared",
        found_by="save_load",
    ),
    Mutant(
        ON_POLICY,
        "owners: list[Any] = [self.heads, *self.network.blocks]",
        "owners: list[Any] = [self.heads]",
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
        GUIDANCE,
        "rollout.actions, advantages)\n",
        "rollout.actions, -advantages)\n",
        "guidance by minus the advantage",
        found_by="targets",
    ),
    Mutant(
        GUIDANCE, 'return {"actor": actor, "critic": critic}', 'return {"actor": critic, "critic": actor}', "signals swapped"
    ),
    Mutant(
        GUIDANCE,
        "(rollout.returns - rollout.old_values)[",
        "rollout.returns[",
        "values of the critic twice",
        found_by="targets",
    ),
    Mutant(
        GUIDANCE,
        "Guidance(rollout.old_values[:, None], (rollout.returns - rollout.old_values)[:, None])",
        "Guidance.whole(rollout.returns[:, None])",
        "shared blocks match the returns as a whole",
        found_by="targets",
    ),
    Mutant(
        PHASE,
        'Guidance.whole(guides["critic"].wanted)',
        'guides["critic"]',
        "the critic's own blocks match what the values lack",
        found_by="targets",
    ),
    Mutant(
        GUIDANCE,
        "(rollout.advantages.std(correction=0) + 1e-8)",
        "1.0",
        "advantages of the guidance not scaled",
        found_by="targets",
    ),
    Mutant(
        GUIDANCE, "(rollout.advantages - rollout.advantages.mean())", "rollout.advantages", "nor centred", found_by="targets"
    ),
    Mutant(PHASE, "target.index_select(0, rows)", "target[: len(rows)]", "guidance of other rows"),
    Mutant(PHASE, "guides.get(block.role)", 'guides.get("actor")', "all blocks guided as the actor's"),
    Mutant(
        PHASE,
        "balanced(list(guides.values()))",
        'guides["actor"]',
        "shared blocks guided by the actor alone",
    ),
    Mutant(LOSS, "[part / unit for part in own]", "own", "the critic drowns the actor in shared blocks"),
    Mutant(
        LOSS,
        "norm = own.change.norm()",
        "norm = own.wanted.norm()",
        "what is said drowns what changes",
        found_by="hidden_phase",
    ),
    Mutant(
        LOSS,
        "unit = th.where(norm > 0, norm, 1.0)",
        "unit = norm",
        "a constant guide of shared blocks",
        found_by="hidden_phase",
    ),
    Mutant(
        PHASE,
        "guidance.wanted if layer is None else guidance.known",
        "guidance.wanted",
        "image of an auxiliary layer with the change",
        found_by="auxiliary",
    ),
    Mutant(
        PHASE,
        "guidance.wanted if layer is None else guidance.known",
        "guidance.known",
        "image without the change",
        found_by="targets",
    ),
    Mutant(LOSS, "th.where(self.said.any(dim=0), self.said, self.change)", "self.said", "no image where nothing is said"),
    Mutant(LOSS, "return standardise(Guidance(said, change))", "return Guidance(said, change)", "shared guidance in no unit"),
    Mutant(PHASE, "{role: standardise(own) for", "{role: own for", "guidance as it comes"),
    Mutant(ON_POLICY, "rows.number, signals)", "rows.number, {})", "signals not handed on"),
    Mutant(BLOCKS, "start_at_scale(self.optimizer)\n", "pass\n", "RMSprop starts at zero", found_by="blocks"),
    Mutant(OPTIMIZERS, "fill_(mean)", "fill_(0.1 * mean)", "RMSprop starts too small", found_by="blocks"),
    Mutant(
        OPTIMIZERS,
        'if group["momentum"] > 0 or group["centered"] or group["capturable"]:',
        "if False:",
        "an RMSprop with momentum started without it",
        found_by="blocks",
    ),
    # === The guided loss ===
    Mutant(LOSS, "mul_(-2 /", "mul_(2 /", "sign of the gradient"),
    Mutant(LOSS, "mul_(-2 /", "mul_(-1 /", "half of the gradient"),
    Mutant(LOSS, "max(residual.numel(), 1)", "max(len(residual), 1)", "no mean over columns"),
    Mutant(LOSS, "th.addmm(self.intercept, outputs, self.weights)", "outputs @ self.weights", "no intercept"),
    Mutant(LOSS, "-mean @ weights", "mean @ weights", "sign of the intercept"),
    Mutant(LOSS, "penalty = ridge * rows +", "penalty = ridge * gram.diagonal().mean() +", "penalty relative to outputs"),
    Mutant(LOSS, "penalty = ridge * rows +", "penalty = ridge +", "penalty that counts as one row"),
    Mutant(LOSS, " + 8 * th.finfo(gram.dtype).eps * gram.diagonal().sum()", "", "penalty below rounding errors"),
    Mutant(LOSS, "centred = outputs - mean ", "centred = outputs ", "outputs not centred"),
    Mutant(LOSS, "matched + penalty * weights.square().sum() / total", "matched", "explained less the penalty"),
    Mutant(LOSS, "(part - part.mean(dim=0)) / unit", "part / unit", "standardised without centring"),
    Mutant(LOSS, "th.where(mean > 0, mean, 1.0).sqrt()", "th.where(mean > 0, mean, 1.0)", "variance for the deviation"),
    Mutant(LOSS, "varies = variance.sqrt() > 32 *", "varies = variance.sqrt() > 0 *", "rounding noise guides"),
    Mutant(LOSS, "th.where(varies, variance, 0.0).mean()", "variance.amax()", "the unit of the largest column"),
    Mutant(
        LOSS, "th.where(guidance.said.any(dim=0), image.of(outputs), 0.0)", "guidance.said", "all that is said to be matched"
    ),
    Mutant(
        LOSS,
        "th.where(guidance.said.any(dim=0), image.of(outputs), 0.0)",
        "image.of(outputs)",
        "the critic's image to be kept",
    ),
    Mutant(LOSS, "own + guidance.change", "own + guidance.wanted", "what is said to be added to the image"),
    Mutant(PHASE, "                if target is None:\n", "                if True:\n", "the change added in every pass"),
    Mutant(
        PHASE,
        "(outputs, guidance.wanted if layer is None",
        "(outputs, guidance.change if layer is None",
        "image of the change",
    ),
    Mutant(HISTORY, "zip(*(part.cached for part in parts)", "zip(*(rollout for _ in parts)", "rows of the last rollout alone"),
    Mutant(LOSS, ".clamp_min(th.finfo(columns.dtype).tiny)", "", "divided by guidance that does not vary"),
    Mutant(
        ROOT,
        "observations = {key: observations[key] for key in policy.observation_space.spaces}",
        "pass",
        "parts of an observation in the order of the environment",
        found_by="values",
    ),
    # === The hidden phase ===
    Mutant(PHASE, LEARN + TOPS, TOPS + LEARN, "top features of before"),
    Mutant(PHASE, TRAIN_THEN_RUN, RUN_THEN_TRAIN, "blocks above learn on what the one below said before"),
    Mutant(
        PHASE,
        "            if guidance is not None and self.objective.guidance_coef > 0:",
        "            if guidance is not None and self.objective.guidance_coef > 0 and goal is None:",
        "image fitted once",
    ),
    Mutant(
        PHASE,
        "linear_image(outputs, guidance.wanted if layer is None else guidance.known)",
        "linear_image(outputs[: self.batch_size], guidance.wanted[: self.batch_size])",
        "image fitted to some rows",
    ),
    Mutant(
        LOSS,
        "own_loss.lerp(loss, self.guidance_coef)",
        "own_loss.lerp(loss, 1 - self.guidance_coef)",
        "loss by one minus the coefficient",
        found_by="hidden_phase",
    ),
    Mutant(
        LOSS,
        "own_gradient.lerp(gradient, self.guidance_coef)",
        "own_gradient.lerp(gradient, 1 - self.guidance_coef)",
        "gradient by one minus the coefficient",
        found_by="hidden_phase",
    ),
    Mutant(LOSS, "if self.guidance_coef < 1:", "if False:", "guided alone", found_by="hidden_phase"),
    Mutant(
        LOSS,
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
        FEED,
        "        _set_training(modules, True)\n",
        "",
        "learning at rest",
    ),
    Mutant(
        FEED,
        "            _set_training(modules, False)\n",
        "            pass\n",
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
    Mutant(
        FEED,
        "                self._complete = False\n",
        "",
        "what others are computed from dropped",
        found_by="images",
    ),
    Mutant(
        FEED,
        "self._last.get(name, -1) > index",
        "self._last.get(name, -1) >= index",
        "inputs kept too long",
        found_by="images",
    ),
    Mutant(
        PHASE,
        "{module for module in self.network.policy.modules() if module.training}",
        "set(self.network.policy.modules())",
        "modules that stay in evaluation mode trained",
        found_by="run",
    ),
    Mutant(PHASE, "[parameter.clone() for parameter in block.parameters]", "list(block.parameters)", "no movement recorded"),
    Mutant(PHASE, "th.stack([(new - old).norm()", "th.stack([new.norm()", "norm recorded for the movement"),
    Mutant(
        PHASE,
        "(change / th.stack([old.norm() for old in before]).norm()",
        "(change / before[0].norm()",
        "another unit of it",
    ),
    Mutant(PHASE, "(sum(column) / len(figures) for column", "(column[-1] for column", "the last loss recorded"),
    Mutant(PHASE, "(sum(column) / len(figures) for column", "(min(column) for column", "the least loss and norm recorded"),
    Mutant(PHASE, "image.explained.item()", "image.loss.item()", "loss recorded for R2"),
    Mutant(PHASE, "if first is None:", "if True:", "rows compared with others of their forward pass alone"),
    Mutant(PHASE, "varies = varies | (comp", "varies = (comp", "constant outputs of the last forward pass"),
    Mutant(PHASE, "varies.unflatten(0, (-1, given.shape[1])).any(dim=0)", "varies", "places counted for channels"),
    Mutant(PHASE, "(-1, given.shape[1])).any(dim=0)", "(given.shape[1], -1)).any(dim=1)", "places mixed with channels"),
    Mutant(
        PHASE, "if constant >= SWITCHED_OFF:", "if constant >= 1:", "warned once all units are off", found_by="hidden_phase"
    ),
    Mutant(PHASE, "if constant >= SWITCHED_OFF:", "if constant >= 0.5:", "warned while many units learn"),
    Mutant(PHASE, "if (inputs != inputs[:1]).any():", "if True:", "blamed for constant inputs"),
    Mutant(
        PHASE,
        "if (problem := parameter_problem(self.network.policy)) is not None:",
        "if (problem := None) is not None:",
        "a weight that is not finite not named",
        found_by="bad_input",
    ),
    # === What is compared of feature maps ===
    Mutant(LOSS, "activations.ndim == 4", "False", "feature maps read number by number", found_by="images"),
    Mutant(LOSS, "max(round(side / GRID), 1)", "side // GRID + 1", "cells where each place has its own"),
    Mutant(LOSS, "for side in activations.shape[2:]]", "for side in activations.shape[:1:-1]]", "height and width swapped"),
    Mutant(LOSS, ", ceil_mode=True)", ")", "the border of feature maps left out"),
    Mutant(LOSS, "F.avg_pool2d(activations", "F.max_pool2d(activations", "maxima of feature maps"),
    Mutant(LOSS, "means.permute(0, 2, 3, 1).flatten", "means.flatten", "channels first", found_by="guided"),
    Mutant(LOSS, "max(size) > 1", "min(size) > 1", "narrow feature maps read number by number"),
    Mutant(
        BLOCKS, "self._convolution and not any(map(hooked, self._convolution))", "self._convolution", "hooks of a convolution"
    ),
    Mutant(
        BLOCKS, "compared = summarised(outputs)", "compared = outputs.flatten(1)", "places instead of cells", found_by="guided"
    ),
    Mutant(
        SPLITTING,
        "        flatten_late(graph, numbers, values[0])\n",
        "",
        "maps flattened by the layer that gives them",
        found_by="images",
    ),
    Mutant(
        PARTITION,
        "if flattens and numbers[node] not in users",
        "if numbers[node] not in users",
        "all that is made of maps goes to who reads it",
        found_by="images",
    ),
    Mutant(
        PARTITION,
        "users.pop() if len(users) == 1 and math.inf not in users else numbers[node] + 0.5",
        "users.pop()",
        "maps flattened for one of their readers",
        found_by="images",
    ),
    Mutant(SPLITTING, "        keep_together(numbers, values[0])\n", "", "a tuple handed on", found_by="network"),
    # === What is held, and what is computed anew ===
    Mutant(
        FEED,
        "min(first + network.pass_rows, rows)",
        "min(first + network.pass_rows - 1, rows)",
        "the last row of a forward pass left out",
        found_by="images",
    ),
    Mutant(
        FEED,
        "min(first + network.pass_rows, rows)",
        "min(first + network.pass_rows + 1, rows)",
        "a row in two forward passes",
        found_by="images",
    ),
    Mutant(
        FEED,
        "range(0, rows, network.pass_rows)",
        "range(0, rows, network.pass_rows + 1)",
        "rows between forward passes left out",
        found_by="images",
    ),
    Mutant(
        FEED,
        "th.arange(rows.start, rows.stop)",
        "th.arange(rows.stop - rows.start)",
        "the first rows in every forward pass",
        found_by="images",
    ),
    Mutant(
        FEED,
        "self._complete = not images and rows * network.row_bytes <= budget",
        "self._complete = True",
        "observations held whatever they take",
        found_by="images",
    ),
    Mutant(FEED, "not images and rows", "rows", "images held as numbers", found_by="images"),
    Mutant(
        AUXILIARY, "[loss * share, gradient.T @ outputs * share,", "[loss, gradient.T @ outputs,", "parts of a step add up"
    ),
    Mutant(AUXILIARY, "gradient = SLOPES[nn.ReLU](gradient, units)", "pass", "units learn that are off", found_by="auxiliary"),
    Mutant(AUXILIARY, "return loss, gradient @ self.weight", "return loss, outputs * 0", "nothing for the convolution"),
    Mutant(AUXILIARY, "zip(self._sums, own, strict=True)] if self._sums else own", "zip(own, own)]", "last part alone, twice"),
    Mutant(
        AUXILIARY, "loss, *gradients = self._sums\n        self._sums = []\n", "loss, *gradients = self._sums\n", "sums kept"
    ),
    Mutant(AUXILIARY, "tuple(gradients), max_grad_norm)", "tuple(gradients), 1e9)", "steps not clipped"),
    Mutant(AUXILIARY, "outputs.shape[1] == self.weight.shape[1] and ", "", "a layer of another width"),
    Mutant(AUXILIARY, " and outputs.dtype == self.weight.dtype", "", "a layer of another type"),
    Mutant(AUXILIARY, "if layer is None or not layer.fits(outputs):", "if True:", "a new layer in every pass"),
    Mutant(AUXILIARY, 'copied(vars(self), th.device("cpu"))', "vars(self)", "tensors of the GPU in files"),
    Mutant(AUXILIARY, "lr)\n        self._sums = []\n", "lr)\n", "what a broken update has left"),
    Mutant(AUXILIARY, "maker, options = maker_of(policy)", "maker, options = th.optim.Adam, {}", "optimizer of its own kind"),
    Mutant(AUXILIARY, 'block.optimizer.param_groups[0]["lr"])', "1e-3)", "rate of its own"),
    Mutant(CENTRING, "weight.addr_(bias, mean, alpha=-1)", "pass", "gradients not centred"),
    Mutant(CENTRING, "self.layer.bias.add_(before - self.layer.weight @ mean)", "pass", "means move with a centred weight"),
    Mutant(CENTRING, "self._sum / self._rows", "self._sum", "sum of inputs for their mean"),
    Mutant(CENTRING, "(0 if self._sum is None else self._sum)", "0", "centred on the last part of a step"),
    Mutant(
        CENTRING,
        "        self._sum, self._rows = None, 0\n        weight",
        "        weight",
        "what was read before a step counts",
    ),
    Mutant(CENTRING, "            self._sum, self._rows = None, 0\n", "", "what a broken update has read counts"),
    Mutant(CENTRING, "            hook.remove()\n", "", "inputs watched forever"),
    Mutant(
        BLOCKS,
        "nullcontext() if self.centring is None else self",
        "nullcontext() if True else self",
        "no step centred",
        found_by="centring",
    ),
    Mutant(
        PHASE,
        "block.centring if is_maps(feed.inputs(index, slice(0, 1))) else None",
        "block.centring",
        "all linear layers centred",
        found_by="centring",
    ),
    Mutant(
        PHASE,
        "nullcontext() if centring is None else centring",
        "nullcontext() if True else centring",
        "no layer centred",
        found_by="centring",
    ),
    Mutant(AUXILIARY, "block.role, nn.Sequential", '"actor", nn.Sequential', "role of another"),
    Mutant(
        PHASE,
        "if is_maps(given):\n                    layer",
        "if False:\n                    layer",
        "image of the maps",
        found_by="auxiliary",
    ),
    Mutant(
        PHASE, "goal.of(part, len(part) / len(rows))", "goal.of(part, 1.0)", "shares of parts forgotten", found_by="auxiliary"
    ),
    Mutant(PHASE, "goal.layer.learn(self.max_grad_norm)", "goal.layer.learn(1e9)", "its steps not clipped", found_by="images"),
    Mutant(
        ON_POLICY, "2**20, self.auxiliary)", "2**20, AuxiliaryLayers())", "new layers in every phase", found_by="auxiliary"
    ),
    Mutant(FEED, "* len(self.chunks) > left:", "* 0 > left:", "outputs held whatever they take", found_by="images"),
    Mutant(FEED, "* len(self.chunks) > left:", "> left:", "one forward pass taken for all", found_by="images"),
    Mutant(
        FEED,
        "left = self.budget - sum(value.untyped_storage().nbytes() for value in self._held.values())",
        "left = self.budget",
        "what is held already not counted",
        found_by="images",
    ),
    Mutant(
        FEED,
        "        self._held = {name: value for name, value in self._held.items() if name in needed}\n",
        "",
        "held to the end",
        found_by="hidden_phase",
    ),
    Mutant(FEED, "[*readers, *self.network.tops]", "readers", "tops not held", found_by="images"),
    Mutant(
        FEED,
        "if fits and not shared and read[0] not in self._read_above(index, [name]):",
        "if False:",
        "room for inputs and outputs at once",
        found_by="images",
    ),
    Mutant(
        FEED,
        " and read[0] not in self._read_above(index, [name])",
        "",
        "inputs overwritten that others read",
        found_by="images",
    ),
    Mutant(
        FEED, "_compact(self._held[name])", "self._held[name]", "top features in the room of larger values", found_by="images"
    ),
    Mutant(FEED, "read[0] in self._makers and ", "", "observations overwritten", found_by="images"),
    Mutant(FEED, "value.dtype == spare.dtype and ", "", "outputs rounded to the type of the inputs", found_by="images"),
    Mutant(
        FEED,
        "kept[name][chunk] = value",
        "kept[name][: len(value)] = value",
        "rows held in another's place",
        found_by="images",
    ),
    Mutant(
        FEED, "else rows.split(self.network.pass_rows)", "else [rows]", "layers run anew on a whole step", found_by="images"
    ),
    Mutant(FEED, "join([part[name] for part in parts])", "parts[0][name]", "the first pass for all", found_by="images"),
    Mutant(
        FEED, "self.network.rows_of(max(row_bytes, 1))", "self.network.pass_rows", "small inputs in parts", found_by="images"
    ),
    Mutant(
        FEED,
        "for later in self.network.parts[index + 1 :]",
        "for later in self.network.parts[index + 1 : index + 2]",
        "only what the next part reads is held",
        equivalent="every part leads to the top features, and what they are made of is held",
        found_by="images",
    ),
    Mutant(
        FEED,
        "return held.union(*(self._needed(self.network.parts[maker].inputs, kept) for maker in makers))",
        "return held",
        "what others are computed from not held",
        found_by="images",
    ),
    Mutant(
        FEED,
        "        _set_training(self._learning, False)\n",
        "",
        "layers that run anew are learning",
        found_by="images",
    ),
    Mutant(
        FEED,
        "        _set_training(self._learning, True)\n",
        "",
        "steps at rest after layers that run anew",
        found_by="images",
    ),
    Mutant(
        FEED,
        "            found[name] = self._read(name, rows)\n",
        "            found[name] = self._held[name][: len(self._read(name, rows))]\n",
        "layers run anew on the first rows",
        found_by="images",
    ),
    Mutant(
        FEED,
        "self._values(self.network.tops, rows)) for rows in self.chunks)",
        "self._values(self.network.tops, rows)) for rows in reversed(self.chunks))",
        "top features in another order",
        found_by="images",
    ),
    Mutant(
        FEED,
        "found.update(self._by_name(part.outputs, given))",
        "found[name] = given[0] if len(part.outputs) > 1 else given",
        "the first of several outputs for each",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "max(min(PASS_ROWS, self._pass_bytes // row_bytes), 1)",
        "min(PASS_ROWS, self._pass_bytes // row_bytes)",
        "no row of large images to a pass",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "max(min(PASS_ROWS, self._pass_bytes // row_bytes), 1)",
        "PASS_ROWS",
        "as many images to a pass as vectors",
        found_by="images",
    ),
    Mutant(
        NETWORK,
        "max(min(PASS_ROWS, self._pass_bytes // row_bytes), 1)",
        "max(self._pass_bytes // row_bytes, 1)",
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
    Mutant(ON_POLICY, "self.local_memory * 2**20, self", "2**26, self", "local_memory not handed on", found_by="images"),
    Mutant(
        ON_POLICY, "self.local_memory * 2**20, self", "self.local_memory, self", "local_memory in bytes", found_by="images"
    ),
    Mutant(
        READER,
        "obs_as_tensor(pick(buffer.observations, places), device)",
        "obs_as_tensor(pick(buffer.observations, places).astype(np.float32), device)",
        "images kept as floats",
        found_by="images",
    ),
    # === Steps in parts ===
    Mutant(
        PHASE,
        "            share = len(part) / rows\n",
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
        "separate = goal is not None and self.objective.guidance_coef == 1 and",
        "separate = goal is not None and",
        "pairs of rows compared in parts",
        found_by="images",
    ),
    Mutant(
        PHASE,
        "separate = goal is not None and self.objective.guidance_coef == 1 and",
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
        "rows.split(most) if separate else (rows,)",
        "(rows,)",
        "minibatches of images in one pass",
        found_by="images",
    ),
    Mutant(PHASE, " if separate else (rows,)", "", "pairs of rows within a pass alone", found_by="images"),
    Mutant(
        PHASE,
        "        latents = feed.tops()\n        self.network.policy.set_training_mode(True)",
        "        self.network.policy.set_training_mode(True)\n        latents = feed.tops()",
        "top features computed anew in training mode",
        found_by="images",
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
    Mutant(RECORDS, '("r2", record.explained)', '("r2", record.loss)', "losses logged for R2", found_by="hidden_phase"),
    Mutant(RECORDS, '("loss", record.loss)', '("loss", record.grad_norm)', "norms logged for losses"),
    Mutant(RECORDS, '("movement", record.movement)', '("movement", record.loss)', "losses logged for movement"),
    Mutant(RECORDS, '("constant", record.constant)', '("constant", record.loss)', "losses logged for constant outputs"),
    Mutant(RECORDS, "np.mean([record.grad_norm", "np.mean([record.loss", "losses logged for norms"),
    Mutant(RECORDS, "if not math.isnan(value):", "if True:", "R2 of no guidance logged", found_by="local_learning"),
    Mutant(RECORDS, ', exclude=("stdout", "log"))', ")", "a line on the screen for every block", found_by="local_learning"),
    Mutant(
        RECORDS,
        'f"local/{figure}/{name}"',
        'f"train/local_loss/{figure}/{name}"',
        "keys below others",
        found_by="local_learning",
    ),
    Mutant(NETWORK, "self.policy.set_training_mode(False)", "pass", "features of the heads in training mode"),
    Mutant(
        NETWORK, "any(module.training for module in self._below)", "self.policy.training", "one layer left in training mode"
    ),
    Mutant(
        ON_POLICY,
        "        self.policy.set_training_mode(True)  # as under SB3",
        "        pass  # as under SB3",
        "left in evaluation mode",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "refuse_unless_finite(rollout.advantages + rollout.returns)",
        "pass",
        "a rollout that is not finite waits",
        found_by="bad_input",
    ),
    Mutant(
        READER,
        "(index % buffer.buffer_size, index // buffer.buffer_size)",
        "(index // buffer.n_envs, index % buffer.n_envs)",
        "observations step by step, all else by environments",
        found_by="targets",
    ),
    Mutant(
        READER,
        "values = RolloutBuffer.swap_and_flatten(values)",
        "values = values.reshape(-1, *values.shape[2:])",
        "columns",
        found_by="oracle",
    ),
    Mutant(
        HEADS,
        "th.where(_change(step, gram) <= _change(first, gram), after, before + first)",
        "after",
        "regressions that diverge",
        found_by="values",
    ),
    # === The refit of the heads ===
    Mutant(
        ON_POLICY,
        "drift = self.heads.refit(outputs, latents, self.history.sample)",
        "drift = None",
        "refit left out",
        found_by="local_learning",
    ),
    Mutant(
        ON_POLICY,
        "        outputs = self.heads.outputs(*before)\n        latents = self._train_blocks(rows)\n",
        "        latents = self._train_blocks(rows)\n"
        "        outputs = self.heads.outputs(latents, *before[len(rows.latents) :])\n",
        "refitted to what they say now",
        found_by="local_learning",
    ),
    Mutant(
        REGRESSION,
        "        gram = gram + sample.gram(side)\n",
        "        pass\n",
        "refit weighed without the sample",
        found_by="local_learning",
    ),
    Mutant(
        HEADS,
        "[features] if sample is None else [features, sample.latents]",
        "[features] if sample is None else [sample.latents, features]",
        "outputs in another order",
        found_by="phases",
    ),
    Mutant(
        REGRESSION,
        "zip(features, residuals, strict=True)",
        "zip(features[:1], residuals[:1], strict=True)",
        "refitted on new rows alone",
        found_by="local_learning",
    ),
    Mutant(
        ON_POLICY,
        REFRESH + REFIT,
        REFIT + REFRESH,
        "refit on the sample's features of before",
        found_by="local_learning",
    ),
    Mutant(
        HISTORY,
        "            self.sample = SampleFeatures(features(self.observations))\n",
        "            pass\n",
        "old features of the sample",
        found_by="phases",
    ),
    Mutant(
        HISTORY,
        "_mixed(self.sample.latents, own, places, grown)",
        "_mixed(self.sample.latents, own, places.flip(0), grown)",
        "features of other rows of the sample",
        found_by="phases",
    ),
    Mutant(
        HISTORY,
        "_mixed(self.observations, new, places, grown)",
        "_mixed(self.observations, new, places.flip(0), grown)",
        "other observations of the sample",
        found_by="phases",
    ),
    Mutant(
        HISTORY,
        "pick(latents, taken)",
        "pick(latents, slice(len(taken)))",
        "features of other rows taken in",
        found_by="phases",
    ),
    # === What is read of a rollout for the window ===
    Mutant(
        READER,
        "rewards[end.step, end.env] -= gamma * value",
        "rewards[end.step, end.env] += gamma * value",
        "values of truncated episodes added twice",
        found_by="values",
    ),
    Mutant(
        READER,
        "rewards[end.step, end.env] -= gamma * value",
        "rewards[end.step, end.env] -= 1.0 * value",
        "values of truncated episodes not discounted",
        found_by="values",
    ),
    Mutant(
        ON_POLICY,
        "ends, self.rollout_buffer.gamma, self.rollout_buffer.gae_lambda)",
        "ends, self.rollout_buffer.gae_lambda, self.rollout_buffer.gamma)",
        "discount and lambda",
        found_by="values",
    ),
    Mutant(
        HISTORY,
        "(own.starts[1:], own.next_starts[None])",
        "(own.starts[1:], np.ones_like(own.next_starts)[None])",
        "episodes end with the rollout",
    ),
    Mutant(
        RECORDER,
        'info.get("TimeLimit.truncated", False)',
        'not info.get("TimeLimit.truncated", False)',
        "ends taken for cuts",
        found_by="values",
    ),
    Mutant(
        READER,
        "buffer.episode_starts.copy(), starts, following",
        "buffer.episode_starts.copy(), np.zeros_like(starts), following",
        "episodes that end with the rollout go on in the window",
        found_by="values",
    ),
    Mutant(
        READER,
        "        known = known and _hands_out_as_sb3(buffer)\n",
        "",
        "a window of rows in another order",
        found_by="own_buffers",
    ),
    Mutant(
        ON_POLICY,
        "self._end = self._last_obs if goes_on else None,",
        "self._end = self._last_obs,",
        "a window goes on after a rollout that was stopped",
        found_by="values",
    ),
    Mutant(
        READER,
        "buffer.n_envs < WINDOW_ROWS",
        "buffer.n_envs <= WINDOW_ROWS",
        "a long rollout in a window",
        found_by="values",
    ),
    # === Advantages ===
    Mutant(
        TRAINING, "if advantages.shape[-1] < 2:", "if advantages.shape[-1] < 1:", "one advantage normalised", found_by="heads"
    ),
    Mutant(TRAINING, "(advantages.std(dim=-1, keepdim=True) + 1e-8)", "1.0", "advantages not scaled", found_by="heads"),
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
        "super()._transitions() if self._current_clip_range_vf() is None else None",
        "super()._transitions()",
        "values that are clipped drawn by older returns",
        found_by="values",
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
    Mutant(TRAINING, "if norm > max_grad_norm:", "if False:", "never clipped"),
    Mutant(TRAINING, "own.mul_(max_grad_norm / norm)", "own.mul_(max_grad_norm)", "clipped to another norm"),
    Mutant(
        GRADIENTS,
        "        parameter.grad = None\n    entropy_slope",
        "        pass\n    entropy_slope",
        "gradients add up",
        found_by="oracle",
    ),
    Mutant(
        GRADIENTS,
        "th.full_like(outputs.entropy, slopes.entropy)",
        "-th.full_like(outputs.entropy, slopes.entropy)",
        "entropy's sign",
    ),
    Mutant(
        GRADIENTS,
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
    Mutant(HEADS, "log_std if group", "maps if group", "spread at the rate of the maps"),
    Mutant(
        ON_POLICY,
        "elif self.history.new_rows >= FIT_ROWS:",
        "else:",
        "fitted to every handful of rows",
        found_by="values",
    ),
    Mutant(
        HISTORY,
        "        if self.sample is not None:\n            gram, rows",
        "        if False:\n            gram, rows",
        "values not held on the sample",
        found_by="values",
    ),
    Mutant(
        HISTORY,
        "self.sample.gram(1) if gram is None else gram + self.sample.gram(1)",
        "self.sample.gram(0) if gram is None else gram + self.sample.gram(0)",
        "values held by the actor's features of the sample",
        found_by="values",
    ),
    Mutant(
        HISTORY,
        "self.sample.gram(1) if gram is None else gram + self.sample.gram(1)",
        "self.sample.gram(1)",
        "values held on the sample alone",
        found_by="values",
    ),
    Mutant(
        HISTORY,
        "rows + len(self.sample)\n",
        "rows\n",
        "rows of the sample not counted",
        found_by="values",
    ),
    Mutant(
        HISTORY,
        "gram, rows = self.left\n        if self.sample",
        "gram, rows = None, 0\n        if self.sample",
        "values not held on rows that have left the window",
        found_by="values",
    ),
    Mutant(HEADS, "(1 / ROLLOUT_SHARE - 1) * rows", "1e9 * rows", "a rollout counts by its rows alone"),
    Mutant(HEADS, "gram = gram + weight * held", "gram = gram + held", "what is held does not give way"),
    Mutant(HEADS, "ridge = REFIT_RIDGE + 1 / (rows + weight * held_rows)", "ridge = REFIT_RIDGE", "few rows trusted"),
    Mutant(
        ON_POLICY,
        "self._value_targets(rollout)[:, None] - self.heads.policy.value_net(rollout.latent_vf)",
        "self._value_targets(rollout)[:, None]",
        "fitted to returns from nothing",
    ),
    Mutant(
        ON_POLICY,
        "        if not self.history.recent:\n",
        "        if True:\n",
        "short rollouts fitted one by one",
        found_by="values",
    ),
    Mutant(
        ON_POLICY,
        "lambda _: moments, self.history.held())",
        "lambda _: moments)",
        "values of a long rollout fitted without the sample",
    ),
    Mutant(
        ON_POLICY,
        "self.heads.fit_values(features, returns, self.history.held(), iterations)",
        "self.heads.fit_values(features, returns, (None, 0), iterations)",
        "values of a window fitted without the sample",
        found_by="values",
    ),
    Mutant(
        ON_POLICY,
        "max(self.history.new_rows // len(rollout.returns), 1)",
        "1",
        "one regression for all rollouts that have waited",
        found_by="values",
    ),
    Mutant(
        ON_POLICY,
        "            self.history.new_rows = 0\n",
        "",
        "rows that were fitted count as new",
        found_by="values",
    ),
    Mutant(
        ON_POLICY,
        "                self.history.forget_returns()\n                raise",
        "                raise",
        "a window that cannot be fitted stays",
        found_by="values",
    ),
    Mutant(HEADS, "[own - head(latent) for own", "[own for own", "heads held to nothing"),
    Mutant(
        HEADS,
        "self._add(path, refit_step(side, read, residuals, sample))",
        "pass",
        "heads not refitted",
        found_by="local_learning",
    ),
    Mutant(
        HEADS,
        "[part[side] for part in parts]",
        "[part[0] for part in parts]",
        "the critic's head refitted to the actor's features",
        found_by="local_learning",
    ),
    Mutant(
        HEADS, "            if side == 0:\n", "            if side == 1:\n", "drift of the values", found_by="local_learning"
    ),
    Mutant(
        HEADS,
        "(wanted - wanted.mean(dim=0)).norm()",
        "wanted.norm()",
        "drift relative to the level of the outputs",
        found_by="local_learning",
    ),
    Mutant(HEADS, "head.bias.add_(step[-1])", "pass", "bias not moved"),
    Mutant(
        REGRESSION,
        "(features.T @ features / rows + sample.moments) / 2",
        "features.T @ features / rows",
        "sample not whitened",
        found_by="local_learning",
    ),
    Mutant(REGRESSION, "if rows >= WHITENING_ROWS:", "if rows >= 1:", "a few rows whitened"),
    Mutant(WHITENING, "return policy.log_std.exp() if", "return policy.log_std if", "units of the logarithm"),
    Mutant(
        WHITENING,
        "return distribution.stddev.mean(dim=0)",
        "return distribution.variance.mean(dim=0)",
        "units of the variance",
    ),
    Mutant(
        GUIDANCE,
        "change = advantages[:, None] * score\n",
        "change = -advantages[:, None] * score\n",
        "sign of scores",
    ),
    Mutant(
        GUIDANCE,
        "change * variance / unit",
        "change / unit",
        "no natural",
    ),
    # === Closed form ===
    Mutant(
        GRADIENTS,
        "-weights * outputs.softmax(dim=1)",
        "weights * outputs.softmax(dim=1)",
        "sign of scores",
    ),
    Mutant(GRADIENTS, "weights * (actions - outputs) *", "weights * (outputs - actions) *", "sign of scores of means"),
    Mutant(GRADIENTS, "(actions - outputs) * inverse_std", "(actions - outputs)", "scores not in deviations"),
    Mutant(GRADIENTS, "(log_probs + entropy[:, None])", "(log_probs - entropy[:, None])", "slope of the entropy"),
    Mutant(GRADIENTS, "(-probs * rate)", "(probs * rate)", "sign of the probabilities"),
    Mutant(GRADIENTS, "(noise.square() - 1) + slopes.entropy", "(noise.square() - 1) - slopes.entropy", "sign of the entropy"),
    Mutant(GRADIENTS, "onto * noise * inverse_std", "onto * noise", "slope of the means"),
    Mutant(GRADIENTS, "            output_slopes.mul_(scale)", "            output_slopes.div_(scale)", "slopes by units"),
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
    # === Rollouts that wait, and the sample ===
    Mutant(
        HISTORY,
        "max(min(interval, fitting(own.observations)), LEAST_ROWS)",
        "max(interval, LEAST_ROWS)",
        "more bytes than may be kept",
        found_by="local_learning",
    ),
    Mutant(
        HISTORY,
        "max(min(interval, fitting(own.observations)), LEAST_ROWS)",
        "min(interval, fitting(own.observations))",
        "a hidden phase of too few rows",
        found_by="local_learning",
    ),
    Mutant(
        HISTORY,
        "if self.waiting_rows < max(",
        "if self.waiting_rows <= max(",
        "one rollout too late",
        found_by="local_learning",
    ),
    Mutant(
        HISTORY,
        "if not self.waiting and number >= max(interval, LEAST_ROWS):",
        "if not self.waiting and number > max(interval, LEAST_ROWS):",
        "observations of a whole rollout copied",
        equivalent="it is handed out all the same",
    ),
    Mutant(
        HISTORY,
        "if not self.waiting and number >= max(interval, LEAST_ROWS):",
        "if number >= max(interval, LEAST_ROWS):",
        "a long rollout passes those that wait",
        found_by="local_learning",
    ),
    Mutant(
        HISTORY,
        "        parts, self.waiting, self.waiting_rows = self.waiting, [], 0\n",
        "        parts = self.waiting\n",
        "handed out twice",
        found_by="local_learning",
    ),
    Mutant(
        HISTORY,
        "        parts, self.waiting, self.waiting_rows = self.waiting, [], 0\n",
        "        parts, self.waiting = self.waiting, []\n",
        "rows that were handed out counted",
        found_by="local_learning",
    ),
    Mutant(HISTORY, "if grown > 0 else past", "if False else past", "a sample that does not grow", found_by="phases"),
    Mutant(HISTORY, "min(room - size, len(taken))", "len(taken)", "a sample that grows forever", found_by="phases"),
    Mutant(HISTORY, "max(room // 8, room - size)", "room", "the whole sample from the last rows", found_by="phases"),
    Mutant(HISTORY, "taken = th.randperm(rows)[", "taken = th.arange(rows)[", "the first rows are sampled", found_by="phases"),
    Mutant(
        HISTORY,
        "places = th.randperm(size)[",
        "places = th.arange(size)[",
        "the first of the sample go",
        found_by="phases",
    ),
    # === The past: what waits, the window, the sample ===
    Mutant(
        HISTORY,
        "            self._leave(self.recent.pop(0)[0])\n",
        "            self.recent.pop(0)\n",
        "rows that leave the window not held",
    ),
    Mutant(
        HISTORY,
        "if any(rollout is own for own in reversed(self.waiting)):",
        "if True:",
        "rows that are in the sample held by the window, too",
    ),
    Mutant(
        HISTORY,
        "self.left = own if gram is None else gram + own, rows",
        "self.left = own, rows",
        "values held on the last rollout that has left alone",
    ),
    Mutant(
        HISTORY,
        "gram_matrix(rollout.cached.latent_vf)",
        "gram_matrix(rollout.cached.latent_pi)",
        "values held by the actor's features",
    ),
    Mutant(HISTORY, ">= WINDOW_ROWS:", "> WINDOW_ROWS:", "a rollout too many in the window"),
    Mutant(
        HISTORY, "self.new_rows += len(rollout)", "self.new_rows = len(rollout)", "rows of the last rollout alone count as new"
    ),
    Mutant(
        HISTORY,
        "            self.forget_returns()  # of other",
        "            pass  # of other",
        "rollouts of other environments in one window",
        found_by="save_load",
    ),
    Mutant(HISTORY, "            self.forget_returns()\n            if not", "            if not", "a gap in the window"),
    Mutant(
        HISTORY,
        "        for rollout, _ in self.recent:\n            self._leave(rollout)\n",
        "",
        "rows of a window that is dropped not held",
    ),
    Mutant(
        HISTORY, "self.recent, self.new_rows = [], 0\n", "self.recent = []\n", "rows of a window that is dropped count as new"
    ),
    Mutant(
        HISTORY,
        "[0, *(len(own.rewards) for own in steps)]",
        "[0 for own in (0, *steps)]",
        "truncations at steps of the first rollout",
    ),
    Mutant(HISTORY, "            following[step, env] = gamma * end\n", "            pass\n", "truncated episodes terminate"),
    Mutant(
        HISTORY,
        "following[step, env] = gamma * end",
        "following[step, env] = end",
        "what truncated episodes go on with not discounted",
    ),
    Mutant(
        HISTORY,
        "ends = th.nn.functional.pad(ends, (0, 1), value=1.0)",
        "ends = th.nn.functional.pad(ends, (0, 1))",
        "no level at the ends",
    ),
    Mutant(HISTORY, "pad(features[1:], (0, 1), value=1.0)", "pad(features[1:], (0, 1))", "no level of what follows"),
    Mutant(
        HISTORY, "ends[None, :environments]", "ends[None, -environments:]", "the last step followed by the last truncations"
    ),
    Mutant(
        HISTORY,
        "unflatten(0, (environments, -1)).transpose(0, 1)",
        "unflatten(0, (-1, environments))",
        "features step by step, all else by environments",
    ),
    Mutant(HISTORY, "(own.starts[1:], own.next_starts[None])", "(own.starts,)", "episodes end a step late"),
    Mutant(HISTORY, "discounts = (gamma * (1 - starts))", "discounts = (gamma * np.ones_like(starts))", "episodes do not end"),
    Mutant(
        HISTORY, "        following *= th.from_numpy(discounts).to(features)[..., None]\n", "", "what follows not discounted"
    ),
    Mutant(
        HISTORY,
        "[self.recent[-1][1].following, *(",
        "[self.recent[0][1].following, *(",
        "what follows the first rollout for what follows the last",
    ),
    Mutant(
        HISTORY,
        "truncations=steps.truncations + ends, next",
        "truncations=steps.truncations, next",
        "a reset terminates episodes",
    ),
    Mutant(HISTORY, "truncations=steps.truncations + ends, next", "truncations=ends, next", "a reset forgets truncations"),
    Mutant(HISTORY, "+ ends, next_starts=np.ones_like(steps.next_starts))", "+ ends)", "returns go on over a reset"),
    Mutant(
        HISTORY,
        "np.flatnonzero(steps.next_starts == 0)",
        "np.arange(len(steps.next_starts))",
        "episodes that have terminated go on at a reset",
    ),
    Mutant(
        HISTORY,
        "Truncation(last, int(env), pick(rows, int(env)))",
        "Truncation(0, int(env), pick(rows, int(env)))",
        "a reset bootstraps the first step",
    ),
    Mutant(HISTORY, "pick(rows, int(env))) for", "pick(rows, 0)) for", "a reset bootstraps from the first environment"),
    Mutant(
        HISTORY,
        "BYTES // sum(part.nbytes",
        "BYTES // max(part.nbytes",
        "bytes of one key for all that is kept",
        found_by="local_learning",
    ),
    Mutant(
        ON_POLICY,
        "if self._last_obs is not self._end[0]:",
        "if False:",
        "environments that are reset go on in the window",
        found_by="values",
    ),
    Mutant(
        ON_POLICY,
        "if self._last_obs is not self._end[0]:",
        "if True:",
        "no return reaches into the next rollout",
        found_by="values",
    ),
    Mutant(
        ON_POLICY,
        "elif self.history.new_rows >= FIT_ROWS:",
        "elif self.history.new_rows > FIT_ROWS:",
        "fitted a rollout late",
        found_by="values",
    ),
    Mutant(
        ON_POLICY,
        " <= 0 or not self.heads.fits_values:",
        " <= 0:",
        "values fitted that are to follow the gradient",
        found_by="own_heads",
    ),
    Mutant(
        READER,
        "rewards, truncations = buffer.rewards.copy(), ",
        "rewards, truncations = buffer.rewards, ",
        "rewards of the rollout written to",
    ),
    # === Gram matrices ===
    Mutant(
        REGRESSION,
        "gram[-1, :-1] = gram[:-1, -1] = features.sum(dim=0)",
        "gram[-1, :-1] = gram[:-1, -1] = features.mean(dim=0)",
        "means for sums",
    ),
    Mutant(REGRESSION, "gram_matrix(self.latents[side])", "gram_matrix(self.latents[0])", "one Gram matrix for both heads"),
    Mutant(
        REGRESSION,
        "return gram[:-1, :-1] / gram[-1, -1]",
        "return gram[:-1, :-1]",
        "sums for second moments of the sample",
        found_by="local_learning",
    ),
    Mutant(
        REGRESSION,
        "targets.sum(dim=0, keepdim=True)])",
        "0 * targets.sum(dim=0, keepdim=True)])",
        "no level is fitted",
        found_by="local_learning",
    ),
    # === Moments of returns ===
    Mutant(
        REGRESSION,
        "th.nn.functional.pad(features, (0, 1), value=1.0) - following",
        "th.nn.functional.pad(features, (0, 1), value=0.0) - following",
        "no level of the values",
    ),
    Mutant(REGRESSION, "self.matrix, weights, alpha=-1)", "self.matrix, weights)", "sign of the temporal differences"),
    Mutant(
        REGRESSION,
        "rates = np.float32(gae_lambda) * discounts[..., None]",
        "rates = discounts[..., None]",
        "lambda of one",
    ),
    Mutant(
        REGRESSION,
        "rates = np.float32(gae_lambda) * discounts[..., None]",
        "rates = np.float32(gae_lambda) * (discounts[..., None] > 0)",
        "traces not discounted",
    ),
    Mutant(
        REGRESSION,
        "rates = np.float32(gae_lambda) * discounts[..., None]",
        "rates = np.full_like(discounts[..., None], gae_lambda * discounts.max())",
        "traces not cut where episodes end",
    ),
    Mutant(REGRESSION, "rates[step - 1] * traces[step - 1]", "rates[step] * traces[step - 1]", "traces cut a step early"),
    Mutant(
        HEADS,
        "            after = after + step\n",
        "            after = before + step\n",
        "one regression after all",
        found_by="values",
    ),
    Mutant(
        HEADS,
        "step = solve_factored(factors, moments(after))",
        "step = solve_factored(factors, moments(before))",
        "regressions from the values of before",
        found_by="values",
    ),
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
        RECORDER,
        "th.stack(parts, dim=1)",
        "th.stack(parts, dim=0)",
        "features step by step, all else by environments",
        found_by="targets",
    ),
    Mutant(RECORDER, "if fits and unchanged and all(", "if fits and all(", "features of other weights", found_by="phases"),
    Mutant(
        RECORDER,
        "        step = len(self._steps) - 1\n",
        "        step = len(self._steps)\n",
        "truncations a step late",
    ),
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
        READER,
        "if self._rows_to_check >= 0 and not overridden(policy):",
        "if self._rows_to_check >= 0:",
        "methods of one's own seldom looked at",
        found_by="own_policies",
    ),
    Mutant(
        READER,
        "        self._rows_to_check = ROWS_BETWEEN_CHECKS\n",
        "",
        "looked at in every rollout",
        found_by="own_policies",
    ),
    Mutant(
        READER,
        "        self._rows_to_check -= rows\n",
        "        self._rows_to_check -= 0\n",
        "never looked at",
        found_by="own_policies",
    ),
    Mutant(
        READER,
        "        if recorded and not all(map(alike,",
        "        if False and not all(map(alike,",
        "recorded features not checked",
        found_by="own_policies",
    ),
    Mutant(
        READER,
        "            rollout = rollout.with_latents(latents)\n",
        "            pass\n",
        "features that acted kept for those that are learned by",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "steps = self._transitions() if unchanged else None",
        "steps = self._transitions()",
        "a window of values of other weights",
        found_by="phases",
    ),
    Mutant(
        READER,
        "            recorded, samples = False,",
        "            recorded, samples = True,",
        "steps of a buffer of one's own",
        found_by="own_buffers",
    ),
    Mutant(
        ON_POLICY,
        "rows.observations if self.heads.through_policy else None",
        "None",
        "guidance of the heads alone",
        found_by="own_policies",
    ),
    Mutant(READER, "            self.heads.follow(None)\n", "", "heads asked in the way of before", found_by="own_policies"),
    Mutant(
        READER,
        "if not follow_from_rewards(buffer, values, starts):",
        "if False:",
        "returns that were written to taken apart",
        found_by="own_policies",
    ),
    Mutant(
        ON_POLICY,
        "unchanged = self.network.fingerprint.shows(kept, now)\n",
        "unchanged = True\n",
        "weights never found changed",
        found_by="own_policies",
    ),
    Mutant(
        HISTORY,
        "for rollout in (*self.waiting, *(own for own, _ in self.recent)):",
        "for rollout in (own for own, _ in self.recent):",
        "old features of rows that wait",
        found_by="own_policies",
    ),
    Mutant(
        HISTORY,
        "for rollout in (*self.waiting, *(own for own, _ in self.recent)):",
        "for rollout in self.waiting:",
        "old features of the window",
        found_by="own_policies",
    ),
    Mutant(
        HISTORY,
        "                part.cached = part.cached.with_latents((actor, critic))\n",
        "                pass\n",
        "old features of the rows of a phase",
        found_by="values",
    ),
    Mutant(
        HISTORY,
        "                part.cached = part.cached.with_latents((actor, critic))\n",
        "                part.cached = part.cached.with_latents((critic, actor))\n",
        "features of the rows of a phase swapped",
        found_by="values",
    ),
    Mutant(
        HISTORY,
        "        self.left = None, 0\n        self.fingerprint = fingerprint\n",
        "        self.fingerprint = fingerprint\n",
        "rows that have left held by features of before",
        found_by="values",
    ),
    Mutant(
        HISTORY,
        "SampleFeatures(own), (None, 0)\n",
        "SampleFeatures(own), self.left\n",
        "rows that are in the sample held twice",
        found_by="values",
    ),
    Mutant(
        HISTORY,
        "        self.fingerprint = fingerprint\n",
        "",
        "fingerprint not renewed",
        found_by="values",
    ),
    Mutant(
        ON_POLICY,
        "self.history.refresh(self._features, self.network.fingerprint(), rows.parts, latents)",
        "self.history.refresh(self._features, self.history.fingerprint, rows.parts, latents)",
        "fingerprint of before the hidden phase",
        found_by="values",
    ),
    Mutant(
        ON_POLICY,
        '"network", "heads", "reader", "_end"]',
        '"network", "heads", "reader", "_end", "history"]',
        "the past not saved",
        found_by="save_load",
    ),
    Mutant(
        ON_POLICY,
        "self.reader.recorder.recording(hooks=not compiled)",
        "self.reader.recorder.recording()",
        "compiled anew for the hooks",
        found_by="own_policies",
    ),
    Mutant(
        OPTIMIZERS,
        "            regroup(owner.optimizer, like=policy.optimizer)\n",
        "            pass\n",
        "groups of the optimizer lost",
        found_by="own_policies",
    ),
    Mutant(
        REGRESSION,
        "(1 - np.concatenate([buffer.episode_starts[1:], starts[None]]).astype(np.float32))",
        "(1 - np.concatenate([buffer.episode_starts[1:], 0 * starts[None]]).astype(np.float32))",
        "episodes that end with the rollout go on",
    ),
    Mutant(
        REGRESSION,
        "if not np.array_equal(buffer.returns, buffer.advantages + buffer.values):",
        "if False:",
        "returns that were written to not seen",
        found_by="own_policies",
    ),
    Mutant(
        REGRESSION,
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
        HEADS, " and not gradient_hooks(log_stds)\n", "\n", "gradient hooks of the spread not called", found_by="own_policies"
    ),
    Mutant(
        HEADS, " and not gradient_hooks(own.values())\n", "\n", "gradient hooks of heads not called", found_by="own_policies"
    ),
    Mutant(
        TRAINING,
        "            parameter.requires_grad_(False)\n",
        "            pass\n",
        "graphs that begin below the heads",
        found_by="own_policies",
    ),
    Mutant(
        TRAINING,
        "                parameter.requires_grad_(True)\n",
        "                pass\n",
        "hidden layers frozen for good",
        found_by="own_policies",
    ),
    Mutant(
        TRAINING,
        "            part.train(False)\n",
        "            pass\n",
        "dropout while heads learn through the policy",
        found_by="own_policies",
    ),
    Mutant(
        TRAINING,
        "                part.train(True)\n",
        "                pass\n",
        "hidden layers left at rest",
        found_by="own_policies",
    ),
    Mutant(
        TRAINING,
        "        self._whitening.pull_gradients()\n",
        "",
        "gradients for features in a step in coordinates",
        found_by="phases",
    ),
    Mutant(
        TRAINING,
        "        self._whitening.enter()\n        try:\n",
        "        try:\n",
        "weights for features in a step in coordinates",
        found_by="phases",
    ),
    Mutant(
        TRAINING,
        "            self._whitening.leave()\n",
        "            pass\n",
        "weights left in coordinates after a step",
        found_by="phases",
    ),
    Mutant(
        TRAINING,
        "        if self.heads.closed_form:\n            self._flat =",
        "        if not self.heads.closed_form and self._whitening is not None:\n"
        "            self._whitening.enter()\n"
        "            self._exit.callback(self._whitening.leave)\n"
        "            self.rollout = self.rollout._replace(latent_pi=self._whitening.coordinates(self.rollout.latent_pi))\n"
        "        if self.heads.closed_form:\n            self._flat =",
        "coordinates around the whole training of any head",
        found_by="phases",
    ),
    Mutant(
        ON_POLICY,
        "            set_apart(self.heads.optimizer, self.heads.log_std)",
        "            pass",
        "no rate of its own for the spread",
        found_by="heads",
    ),
    Mutant(WHITENING, "            bias.mul_(self.scale)\n", "", "units of the bias forgotten"),
    Mutant(
        RECORDER,
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
        RECORDER,
        "same[distances.index(min(distances))]",
        "same[0]",
        "the first call that is nearly the same",
        found_by="own_policies",
    ),
    Mutant(
        RECORDER,
        "if fits and unchanged and all(len(step) == 1 for step in steps):",
        "if fits and unchanged and all(steps):",
        "the first call of a step, whoever made it",
        found_by="own_policies",
    ),
    Mutant(
        RECORDER,
        "return (computed, False) if found is None else (found, True)",
        "return computed, False",
        "nothing found again",
        found_by="own_policies",
    ),
    Mutant(
        RECORDER,
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
    Mutant(CHECKS, "nan_is_fine=finite)", "nan_is_fine=True)", "NaN is always fine"),
    Mutant(CHECKS, "nan_is_fine=finite)", "nan_is_fine=False)", "NaN is never fine"),
    Mutant(CHECKS, "~np.isinf(values) if nan_is_fine", "np.ones(values.shape, bool) if nan_is_fine", "so is infinity"),
    Mutant(CHECKS, "if size.max() > LARGE", "if size.min() > LARGE", "every entry must be large", found_by="warnings"),
    Mutant(CHECKS, "or is_image_space(part)", "", "images look unnormalised", found_by="warnings"),
    Mutant(CHECKS, "    if model._n_updates > 0:\n        return\n", "", "it is said at every update", found_by="warnings"),
    Mutant(CHECKS, "values, values, dtype=float", "values, values, dtype=values.dtype", "bytes overflow", found_by="warnings"),
    Mutant(SPLITTING, "if layer not in inside]) > 1", "if layer not in inside]) > 2", "two layers as one", found_by="network"),
    Mutant(ON_POLICY, '1 and self.hidden_training == "local"', "1", "frozen blocks are shown", found_by="warnings"),
    Mutant(
        CHECKS,
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
