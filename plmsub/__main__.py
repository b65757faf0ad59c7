"The command plmsub, as python -m plmsub"

from plmsub.app.commands import main

if __name__ == "__main__":
    main()
