"""``python -m search.run space=backbones``: run a search, and end with its Pareto front and report."""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cluster.authentication import authenticate_local_cluster, show_token
from search.command_line import check_overrides, quoted_lists, register
from search.config import SearchConfig, continued, settle, space_of
from search.errors import errors_in_one_line


@hydra.main(version_base="1.3", config_path=None, config_name="search")
def _run(node: DictConfig) -> None:
    with errors_in_one_line():
        given = [override.split("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task]
        config = OmegaConf.to_object(node)
        assert isinstance(config, SearchConfig)
        resumed = config.resume
        config = settle(config, given) if resumed is None else continued(config, given)
        space_of(config)
        if config.cluster.address is None:
            authenticate_local_cluster()
        else:
            show_token()
        # torch and Ray take seconds to import: a misspelt setting should not wait for them.
        from search import session  # noqa: PLC0415

        code = session.start(config) if resumed is None else session.resume(config, resumed)
    sys.exit(code)


def main() -> None:
    """Entry point."""
    sys.argv[1:] = quoted_lists(sys.argv[1:])
    with errors_in_one_line():
        check_overrides(sys.argv[1:], register(), ("space", "data", "cluster"))
    try:
        _run()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
