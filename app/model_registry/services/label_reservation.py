"""How a registration takes a label, and gives it back if nothing is published."""

from uuid import uuid4

from model_registry.database.engine import Transaction
from model_registry.domain.entities import ModelDetails, ModelInfo, VersionRef, VersionState
from model_registry.domain.version_labels import precedence
from model_registry.errors import ModelNameTaken, VersionExists
from model_registry.services.version_transitions import already_exists, discard_unfinished
from model_registry.transfer.upload_limits import UploadLimits


class LabelReservation:
    """The reservation of one label by one registration. Its uuid marks the row that it inserts."""

    def __init__(self, actor_name: str, limits: UploadLimits) -> None:
        self._actor_name = actor_name
        self._limits = limits
        self._reservation = uuid4()
        self._ref: VersionRef | None = None
        self.may_be_held = False
        """Whether the label may be ours. If PostgreSQL was never reached there is nothing to give back."""

    async def take(self, tx: Transaction, ref: VersionRef) -> int:
        """Insert a pending version, and return its id. Raises `ModelNameTaken` or `VersionExists`."""
        number = await self._begin(tx, ref)
        for _ in range(2):
            version_id = await tx.versions.reserve(
                ref,
                number=number,
                precedence=precedence(ref.version),
                reservation=self._reservation,
                actor=self._actor_name,
                lease_seconds=self._limits.lease_seconds,
            )
            if version_id is None:
                version_id = await self._make_room(tx, ref)
            if version_id is not None:
                return version_id
        raise self._lost(VersionExists(ref.model_name, ref.version, state=VersionState.PENDING, digest=None))

    async def take_ready(self, tx: Transaction, ref: VersionRef, details: ModelDetails) -> ModelInfo:
        """Insert a version that is ready as it is, without files."""
        number = await self._begin(tx, ref)
        for _ in range(2):
            info = await tx.versions.register(
                ref, number=number, precedence=precedence(ref.version), actor=self._actor_name, details=details
            )
            if info is not None:
                return info
            # A row in the way is never ours: `register` sets no reservation.
            await self._make_room(tx, ref)
        raise self._lost(VersionExists(ref.model_name, ref.version, state=VersionState.PENDING, digest=None))

    async def give_back(self, tx: Transaction) -> None:
        """Discard the pending version, if there is one, and the model if nothing else uses it."""
        if self._ref is None or not self.may_be_held:
            return
        await tx.models.lock(self._ref.model_name)
        existing = await tx.versions.find(self._ref)
        if existing is not None and existing.reservation == self._reservation:
            await discard_unfinished(tx, existing.id, delay_seconds=self._limits.late_write_seconds)
        await tx.models.drop_if_unused(self._ref.model_name)

    async def _begin(self, tx: Transaction, ref: VersionRef) -> int:
        self._ref = ref
        self.may_be_held = True
        try:
            return await tx.models.next_number(ref.model_name)
        except ModelNameTaken:
            self.may_be_held = False
            raise

    async def _make_room(self, tx: Transaction, ref: VersionRef) -> int | None:
        """Discard the version that has the label, if its lease has expired. Returns its id if it is ours."""
        existing = await tx.versions.find(ref)
        if existing is None:
            return None
        if existing.reservation == self._reservation:
            return existing.id  # an earlier attempt committed, and its reply was lost
        if not existing.is_expired:
            raise self._lost(already_exists(ref, existing))
        await discard_unfinished(tx, existing.id, only_expired=True, delay_seconds=self._limits.late_write_seconds)
        return None

    def _lost(self, error: VersionExists) -> VersionExists:
        self.may_be_held = False
        return error
