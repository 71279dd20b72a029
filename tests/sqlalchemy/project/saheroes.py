"""Models as SQLModel users write them (which cannot do with postponed annotations)."""

from sqlmodel import Field, Relationship, SQLModel


class Team(SQLModel, table=True):
    """Has heroes."""

    id: int | None = Field(default=None, primary_key=True)
    title: str
    heroes: list["Hero"] = Relationship(back_populates="team")


class Hero(SQLModel, table=True):
    """May be in a team."""

    id: int | None = Field(default=None, primary_key=True)
    title: str
    team_id: int | None = Field(default=None, foreign_key="team.id")
    team: Team | None = Relationship(back_populates="heroes")
