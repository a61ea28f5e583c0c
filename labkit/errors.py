from labkit.utils import UserError


class AgreedError(UserError):
    pass
