"""Published names: a name has versions, and one of them is the default."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import delete, func, select, update

from fedlas.contract.records import NameRecord
from service.registry.errors import Conflict, InvalidRequest, NotFound
from service.registry.repositories.records import Repository, ServedChanges
from service.registry.tables import Model, PublishedVersion, UnloadedName, now
from service.registry.tables.columns import Json

_SHOWN = 20


class Names(Repository):
    def publish(self, name: str, model: Model) -> int:
        """Make the model the next version of `name`, and its default; return the version.

        It answers for the class priors of the version before, unless its job has its own or its classes are others.
        """
        newest = self._newest(name)
        version = newest + 1
        priors = None if newest == 0 else _inherited(self.version(name).class_priors, model.profile)
        self._clear_default(name)
        self.session.add(
            PublishedVersion(
                name=name, version=version, model_id=model.id, is_default=True, class_priors=priors, created_at=now()
            )
        )
        self._changed(name)
        return version

    def exists(self, name: str) -> bool:
        return (
            self.session.scalar(select(PublishedVersion.name).where(PublishedVersion.name == name).limit(1)) is not None
        )

    def resolve(self, name: str) -> str:
        """Return the model id behind a published name; raises NotFound."""
        model_id = self.session.scalar(
            select(PublishedVersion.model_id).where(
                PublishedVersion.name == name, PublishedVersion.is_default.is_(True)
            )
        )
        if model_id is None:
            raise NotFound("unknown_model", f"there is no model with the id or published name {name!r}")
        return model_id

    def version(self, name: str, version: int | None = None) -> PublishedVersion:
        """A version, or the default one; raises NotFound."""
        wanted = PublishedVersion.is_default.is_(True) if version is None else PublishedVersion.version == version
        if row := self.session.scalars(select(PublishedVersion).where(PublishedVersion.name == name, wanted)).first():
            return row
        known = _excerpt(self.get(name).versions)  # raises where there is none at all
        raise NotFound("unknown_version", f"{name!r} has the versions {known}, not {version}")

    def unload(self, name: str) -> None:
        if not self.is_unloaded(name):
            self.session.add(UnloadedName(name=name, since=now()))
        self._changed(name)  # also where it was: its file may not have been written

    def load(self, name: str) -> None:
        self.session.execute(delete(UnloadedName).where(UnloadedName.name == name))
        self._changed(name)

    def is_unloaded(self, name: str) -> bool:
        return self.session.get(UnloadedName, name) is not None

    def unloaded(self) -> frozenset[str]:
        return frozenset(self.session.scalars(select(UnloadedName.name)))

    def switch(self, name: str, version: int, *, instead_of: int | None = None) -> NameRecord:
        """Make `version` the default; raises NotFound for the name, InvalidRequest for the version.

        Raises Conflict where `instead_of` is given and another version is the default.
        """
        record = self.get(name)
        if instead_of not in (None, record.default_version):
            message = f"version {record.default_version} of {name!r} answers by now, not {instead_of}"
            raise Conflict("default_changed", f"{message}; nothing was changed")
        if str(version) not in record.versions:
            raise InvalidRequest(
                "unknown_version",
                f"{name!r} has the versions {_excerpt(record.versions)}, not {version}",
                field="default_version",
            )
        self._clear_default(name)
        chosen = (PublishedVersion.name == name, PublishedVersion.version == version)
        self.session.execute(update(PublishedVersion).where(*chosen).values(is_default=True))
        self._changed(name)
        return self.get(name)

    def set_priors(self, name: str, version: int, priors: dict[str, float] | None) -> NameRecord:
        """Let a version that exists answer for these class priors, which fit its classes; None takes them away."""
        chosen = (PublishedVersion.name == name, PublishedVersion.version == version)
        self.session.execute(update(PublishedVersion).where(*chosen).values(class_priors=priors))
        self._changed(name)
        return self.get(name)

    def delete(self, name: str) -> None:
        """Delete the name with all its versions, whose models stay; raises NotFound."""
        self.get(name)
        self.session.execute(delete(PublishedVersion).where(PublishedVersion.name == name))
        self.load(name)  # whoever publishes under it next has unloaded nothing

    def delete_version(self, name: str, version: int) -> None:
        """Delete one version, whose model stays; raises NotFound, and Conflict for the one that answers."""
        self.version(name, version)
        record = self.get(name)
        if version == record.default_version:
            others = _excerpt([other for other in record.versions if other != str(version)])
            mend = f"switch to another first ({others})" if others else f"it is the only one: DELETE /v1/names/{name}"
            raise Conflict("default_version", f"version {version} of {name!r} is the one that answers; {mend}")
        newest = self._newest(name)
        of_name = PublishedVersion.name == name
        self.session.execute(delete(PublishedVersion).where(of_name, PublishedVersion.version == version))
        self.session.execute(update(PublishedVersion).where(of_name).values(newest=newest))
        self._changed(name)

    def get(self, name: str) -> NameRecord:
        """Return the name with its versions; raises NotFound."""
        rows = self.versions_of(name)
        if not rows:
            raise NotFound("unknown_name", f"nothing is published as {name!r}")
        default = next((row for row in rows if row.is_default), rows[0])
        return NameRecord(
            name=name,
            default_version=default.version,
            versions={str(row.version): row.model_id for row in rows},
            class_priors=default.class_priors,
        )

    def listed(self, *, limit: int, after: str | None) -> Iterator[NameRecord]:
        """At most `limit` names that follow the name `after` in alphabetical order; read as they are asked for."""
        query = select(PublishedVersion.name).distinct().order_by(PublishedVersion.name).limit(limit)
        if after is not None:
            query = query.where(PublishedVersion.name > after)
        yield from map(self.get, self.session.scalars(query).all())

    def versions(self, *, limit: int) -> Sequence[tuple[str, int]]:
        query = select(PublishedVersion.name, PublishedVersion.version).limit(limit)
        rows = self.session.execute(query.order_by(PublishedVersion.name, PublishedVersion.version))
        return [(row.name, row.version) for row in rows]

    def of_models(self, model_ids: Collection[str]) -> Sequence[PublishedVersion]:
        """The versions of all names that these models are, newest first within a name."""
        query = select(PublishedVersion).where(PublishedVersion.model_id.in_(list(model_ids)))
        return self.session.scalars(query.order_by(PublishedVersion.name, PublishedVersion.version.desc())).all()

    def newest_versions(self, name: str, *, limit: int, below: int | None) -> Sequence[PublishedVersion]:
        """At most `limit` versions of the name, newest first, that are older than the version `below`."""
        query = select(PublishedVersion).where(PublishedVersion.name == name).limit(limit)
        query = query if below is None else query.where(PublishedVersion.version < below)
        return self.session.scalars(query.order_by(PublishedVersion.version.desc())).all()

    def all(self) -> Sequence[PublishedVersion]:
        """All versions of all names, by name."""
        return self.session.scalars(select(PublishedVersion).order_by(PublishedVersion.name)).all()

    def versions_of(self, name: str) -> Sequence[PublishedVersion]:
        """The versions of one name; none where there is no such name."""
        query = select(PublishedVersion).where(PublishedVersion.name == name)
        return self.session.scalars(query.order_by(PublishedVersion.version)).all()

    def _changed(self, name: str) -> None:
        ServedChanges(self.session).add(name)

    def _newest(self, name: str) -> int:
        highest = select(func.max(PublishedVersion.version), func.max(PublishedVersion.newest))
        return max(number or 0 for number in self.session.execute(highest.where(PublishedVersion.name == name)).one())

    def _clear_default(self, name: str) -> None:
        self.session.execute(update(PublishedVersion).where(PublishedVersion.name == name).values(is_default=False))


def _inherited(priors: dict[str, float] | None, profile: Json | None) -> dict[str, float] | None:
    """The priors of the version before, where this model can answer for them and its job has no others."""
    match profile:
        case {"class_priors": {"shares": dict(shares), "default": default}} if priors is not None:
            return priors if default == shares and shares.keys() == priors.keys() else None
    return None


def _excerpt(versions: Collection[str]) -> str:
    """The newest versions, for an error message: there may be thousands."""
    shown = list(versions)[-_SHOWN:]
    return ", ".join(shown) if len(shown) == len(versions) else f"… {', '.join(shown)}"
